# clang for the Debian root WHEEL_SYSROOT of the architecture WHEEL_ARCH (aarch64, x86_64). Debian's cross compiler would
# take the C library of this machine, which is newer than a board's.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR $ENV{WHEEL_ARCH})
set(CMAKE_SYSROOT $ENV{WHEEL_SYSROOT})
foreach(language C CXX)
  set(CMAKE_${language}_COMPILER_TARGET $ENV{WHEEL_ARCH}-linux-gnu)
  # Assertions hold the name of their file, but every folder must give the same wheel.
  set(CMAKE_${language}_FLAGS_INIT "-ffile-prefix-map=$ENV{WHEEL_SOURCE}=.")
endforeach()
set(CMAKE_C_COMPILER clang-$ENV{WHEEL_CLANG})
set(CMAKE_CXX_COMPILER clang++-$ENV{WHEEL_CLANG})
set(CMAKE_EXE_LINKER_FLAGS_INIT "-fuse-ld=lld")
foreach(kind SHARED MODULE)
  # A missing symbol is an error here, not on a board.
  set(CMAKE_${kind}_LINKER_FLAGS_INIT "-fuse-ld=lld -Wl,-z,defs")
endforeach()
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
foreach(what LIBRARY INCLUDE PACKAGE)
  set(CMAKE_FIND_ROOT_PATH_MODE_${what} ONLY)
endforeach()
# All libraries of the wheel are in one folder.
set(CMAKE_INSTALL_RPATH "$ORIGIN")
