# Third-party code: the system's package first, a pinned commit second.
include(FetchContent)
find_package(Threads REQUIRED)

# XXH3, header only: nothing of it has to be present where a wheel is installed.
find_path(XXHASH_INCLUDE_DIR xxhash.h)
if(NOT XXHASH_INCLUDE_DIR)
  FetchContent_Declare(xxhash GIT_REPOSITORY https://github.com/Cyan4973/xxHash.git
                              GIT_TAG bbb27a5efb85b92a0486cf361a8635715a53f6ba) # v0.8.2
  FetchContent_Populate(xxhash)
  set(XXHASH_INCLUDE_DIR ${xxhash_SOURCE_DIR} CACHE PATH "folder of xxhash.h" FORCE)
endif()
add_library(feedfast_xxhash INTERFACE)
target_include_directories(feedfast_xxhash SYSTEM INTERFACE ${XXHASH_INCLUDE_DIR})
target_compile_definitions(feedfast_xxhash INTERFACE XXH_INLINE_ALL)

find_package(nlohmann_json 3.10 QUIET)
if(NOT nlohmann_json_FOUND)
  FetchContent_Declare(nlohmann_json GIT_REPOSITORY https://github.com/nlohmann/json.git
                                     GIT_TAG 9cca280a4d0ccf0c08f47a99aa71d1b0e52f8d03) # v3.11.3
  FetchContent_MakeAvailable(nlohmann_json)
endif()

if(FEEDFAST_BUILD_TESTS)
  find_package(GTest 1.11 QUIET)
  if(NOT GTest_FOUND)
    FetchContent_Declare(googletest GIT_REPOSITORY https://github.com/google/googletest.git
                                    GIT_TAG f8d7d77c06936315286eb55f8de22cd23c188571) # v1.14.0
    set(INSTALL_GTEST OFF)
    FetchContent_MakeAvailable(googletest)
  endif()
endif()

if(FEEDFAST_BUILD_BENCHMARKS)
  find_package(benchmark 1.6 QUIET)
  if(NOT benchmark_FOUND)
    FetchContent_Declare(benchmark GIT_REPOSITORY https://github.com/google/benchmark.git
                                   GIT_TAG 344117638c8ff7e239044fd0fa7085839fc03021) # v1.8.3
    set(BENCHMARK_ENABLE_TESTING OFF)
    set(BENCHMARK_ENABLE_INSTALL OFF)
    FetchContent_MakeAvailable(benchmark)
  endif()
endif()

if(FEEDFAST_BUILD_PYTHON OR NOT FEEDFAST_WITH_TF STREQUAL "OFF")
  find_package(Python 3.11 REQUIRED COMPONENTS Interpreter OPTIONAL_COMPONENTS Development.Module)
endif()
if(FEEDFAST_BUILD_PYTHON)
  find_package(pybind11 CONFIG QUIET)
  if(NOT pybind11_FOUND)
    execute_process(COMMAND ${Python_EXECUTABLE} -m pybind11 --cmakedir
                    OUTPUT_VARIABLE pybind11_DIR OUTPUT_STRIP_TRAILING_WHITESPACE
                    COMMAND_ERROR_IS_FATAL ANY)
    find_package(pybind11 CONFIG REQUIRED)
  endif()
endif()

set(TensorFlow_FOUND OFF)
if(NOT FEEDFAST_WITH_TF STREQUAL "OFF")
  include(FindTensorFlowWheel)
endif()

set(FEEDFAST_CUDA OFF)
if(NOT FEEDFAST_WITH_CUDA STREQUAL "OFF")
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
      set(CMAKE_CUDA_ARCHITECTURES 80-real 90) # A100, H100 and newer through PTX
    endif()
    enable_language(CUDA)
    set(CMAKE_CUDA_STANDARD 17)
    set(FEEDFAST_CUDA ON)
  elseif(FEEDFAST_WITH_CUDA STREQUAL "ON")
    message(FATAL_ERROR "FEEDFAST_WITH_CUDA=ON but no CUDA compiler was found")
  endif()
endif()
message(STATUS "feedfast: CUDA kernels ${FEEDFAST_CUDA} (FEEDFAST_WITH_CUDA=${FEEDFAST_WITH_CUDA})")
