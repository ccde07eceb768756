# Finds the TensorFlow wheel of ${Python_EXECUTABLE}: TensorFlow_FOUND, TensorFlow_VERSION (x.y.z),
# TensorFlow_MINOR (x.y) and the imported target TensorFlow::framework. Asked anew at every
# configure, because environments change under a persistent build folder.
execute_process(COMMAND ${Python_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/find_tensorflow.py
                OUTPUT_VARIABLE found OUTPUT_STRIP_TRAILING_WHITESPACE)
if(found)
  list(GET found 0 TensorFlow_VERSION)
  list(GET found 1 tensorflow_root)
  string(REGEX MATCH "^[0-9]+\\.[0-9]+" TensorFlow_MINOR "${TensorFlow_VERSION}")
  if(EXISTS ${tensorflow_root}/libtensorflow_framework.so.2)
    set(TensorFlow_FOUND ON)
    add_library(TensorFlow::framework SHARED IMPORTED)
    set_target_properties(TensorFlow::framework PROPERTIES
      IMPORTED_LOCATION ${tensorflow_root}/libtensorflow_framework.so.2)
    target_include_directories(TensorFlow::framework SYSTEM INTERFACE ${tensorflow_root}/include)
    # The wheel's own flags: tf.sysconfig.get_compile_flags().
    target_compile_definitions(TensorFlow::framework INTERFACE _GLIBCXX_USE_CXX11_ABI=1
                                                               EIGEN_MAX_ALIGN_BYTES=64)
  endif()
endif()
if(TensorFlow_FOUND)
  message(STATUS "feedfast: TensorFlow ops ON, for TensorFlow ${TensorFlow_VERSION}")
elseif(FEEDFAST_WITH_TF STREQUAL "ON")
  message(FATAL_ERROR "FEEDFAST_WITH_TF=ON but ${Python_EXECUTABLE} has no TensorFlow wheel; "
                      "install the extra 'tf' and build with --no-build-isolation")
else()
  message(STATUS "feedfast: TensorFlow ops OFF (TensorFlow not found)")
endif()
