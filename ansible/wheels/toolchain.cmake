# clang for the Debian root WHEEL_SYSROOT of the architecture WHEEL_ARCH (aarch64, x86_64). Debian's own cross compiler takes
# its C library from the machine it runs on, newer than those of boards.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR $ENV{WHEEL_ARCH})
set(CMAKE_SYSROOT $ENV{WHEEL_SYSROOT})
foreach(language C CXX)
  set(CMAKE_${language}_COMPILER_TARGET $ENV{WHEEL_ARCH}-linux-gnu)
  # Assertions print the name of their file: the same wheel comes from every folder.
  set(CMAKE_${language}_FLAGS_INIT "-ffile-prefix-map=$ENV{WHEEL_SOURCE}=.")
endforeach()
set(CMAKE_C_COMPILER clang-$ENV{WHEEL_CLANG})
set(CMAKE_CXX_COMPILER clang++-$ENV{WHEEL_CLANG})
set(CMAKE_EXE_LINKER_FLAGS_INIT "-fuse-ld=lld")
foreach(kind SHARED MODULE)
  # What no library has is an error here, not on a board.
  set(CMAKE_${kind}_LINKER_FLAGS_INIT "-fuse-ld=lld -Wl,-z,defs")
endforeach()
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
foreach(what LIBRARY INCLUDE PACKAGE)
  set(CMAKE_FIND_ROOT_PATH_MODE_${what} ONLY)
endforeach()
# All libraries of the wheel lie in one folder.
set(CMAKE_INSTALL_RPATH "$ORIGIN")
