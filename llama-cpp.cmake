# Leave out the parts of llama.cpp that eexp does not use, which are half of the work when pip compiles llama-cpp-python.
#
# CMake reads this file after project(llama_cpp):
#
#     CMAKE_ARGS="-DCMAKE_PROJECT_llama_cpp_INCLUDE=$PWD/llama-cpp.cmake" pip install -c constraints.txt .
#
# An option that CMAKE_ARGS sets itself keeps its value.

# libmtmd, which reads images and sound.
if(NOT DEFINED CACHE{LLAVA_BUILD})
  set(LLAVA_BUILD OFF)
endif()

# libllama-common: command lines, chat parsers and downloads of llama.cpp's own programs. llama_cpp does not load it.
# llama-cpp-python turns it on with FORCE, in the cache; a variable that is not in the cache has precedence.
if(NOT LLAVA_BUILD AND NOT DEFINED CACHE{LLAMA_BUILD_COMMON})
  set(LLAMA_BUILD_COMMON OFF)
endif()
