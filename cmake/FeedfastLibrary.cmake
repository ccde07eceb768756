# How feedfast's own targets are compiled.

set(CMAKE_CXX_STANDARD 17)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_CXX_VISIBILITY_PRESET hidden)
set(CMAKE_VISIBILITY_INLINES_HIDDEN ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)
endif()

if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  set(FEEDFAST_X86 ON)
else()
  set(FEEDFAST_X86 OFF)
endif()

# The targets of cpp/common/cpu_target.h with the flags of each. Kernels keep IEEE semantics: nothing
# from -ffast-math. errno and floating-point traps are not part of any kernel's contract.
set(FEEDFAST_CPU_TARGETS scalar)
set(feedfast_flags_scalar "")
if(FEEDFAST_X86)
  list(APPEND FEEDFAST_CPU_TARGETS avx2 avx512 avx512_bf16)
  set(feedfast_flags_avx2 -mavx2 -mfma -mbmi -mbmi2 -mf16c)
  set(feedfast_flags_avx512 ${feedfast_flags_avx2} -mavx512f -mavx512bw -mavx512dq -mavx512vl
                            -mavx512vnni -mprefer-vector-width=512)
  set(feedfast_flags_avx512_bf16 ${feedfast_flags_avx512} -mavx512bf16)
endif()

# Warnings, include root and sanitizer for one of our targets.
function(feedfast_configure_library target)
  target_include_directories(${target} PUBLIC ${PROJECT_SOURCE_DIR})
  target_compile_options(${target} PRIVATE -Wall -Wextra -Wpedantic -Wshadow
                                           $<$<BOOL:${FEEDFAST_WERROR}>:-Werror>)
  if(FEEDFAST_SANITIZER)
    target_compile_options(${target} PUBLIC -fsanitize=${FEEDFAST_SANITIZER}
                                            -fno-omit-frame-pointer -g1)
    target_link_options(${target} PUBLIC -fsanitize=${FEEDFAST_SANITIZER})
    if(FEEDFAST_SANITIZER MATCHES "undefined")
      target_compile_options(${target} PUBLIC -fno-sanitize-recover=all)
    endif()
  endif()
endfunction()

# Compiles <stem>_kernel.cc of the current folder once per CPU target, with FEEDFAST_TARGET set to
# the namespace of that target, and adds the objects to `library`.
function(feedfast_add_kernels library)
  foreach(cpu IN LISTS FEEDFAST_CPU_TARGETS)
    feedfast_add_kernel_objects(${library} ${cpu} "${feedfast_flags_${cpu}}" ${ARGN})
  endforeach()
endfunction()

# Compiles <stem>_kernel.cc once, for the target `cpu` with one instruction set more, where the
# architecture has them; x.cc asks the machine before it calls them.
function(feedfast_add_extension_kernels library cpu extension)
  if(FEEDFAST_X86)
    feedfast_add_kernel_objects(${library} ${cpu}_${extension}
                                "${feedfast_flags_${cpu}};-m${cpu}${extension}" ${ARGN})
  endif()
endfunction()

function(feedfast_add_kernel_objects library cpu flags)
  set(objects ${library}_${cpu})
  set(sources ${ARGN})
  list(TRANSFORM sources APPEND _kernel.cc)
  add_library(${objects} OBJECT ${sources})
  feedfast_configure_library(${objects})
  target_compile_definitions(${objects} PRIVATE FEEDFAST_TARGET=${cpu}
                                                $<$<BOOL:${FEEDFAST_X86}>:FEEDFAST_X86>)
  # GCC 12 takes _mm512_undefined_* of its own headers for a use of uninitialized values.
  target_compile_options(${objects} PRIVATE -O3 -fno-math-errno -fno-trapping-math
                                            -Wno-uninitialized
                                            -fno-exceptions
                                            ${flags})
  target_sources(${library} PRIVATE $<TARGET_OBJECTS:${objects}>)
endfunction()

# Adds the static library `name` of CUDA sources (x_cuda.cu). Only called where FEEDFAST_CUDA is on.
function(feedfast_add_cuda_library name)
  find_package(CUDAToolkit REQUIRED)
  add_library(${name} STATIC ${ARGN})
  target_include_directories(${name} PUBLIC ${PROJECT_SOURCE_DIR})
  target_compile_options(${name} PRIVATE -Xcompiler=-Wall,-Wextra
                                         $<$<BOOL:${FEEDFAST_WERROR}>:-Werror=all-warnings>)
  target_link_libraries(${name} PUBLIC CUDA::cudart)
endfunction()
