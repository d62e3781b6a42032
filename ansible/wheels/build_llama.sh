#!/usr/bin/env bash
# Builds one llama-cpp-python wheel with all kernel variants of an architecture, for Debian 12 and 13, Raspberry Pi OS, Ubuntu
# 22.04 and later: build_llama.sh aarch64|x86_64 → dist/. Works below build/wheels, and continues there after an interruption.
# CMAKE_OPTIONS adds options for CMake.
set -euo pipefail
# The modes of files are in the wheel.
umask 022
cd "$(dirname "$0")/../.."

arch=${1:-}
case $arch in
  aarch64) debian_arch=arm64 ;;
  x86_64) debian_arch=amd64 ;;
  *) echo "build_llama.sh: ${arch:-no architecture}: aarch64 or x86_64" >&2; exit 64 ;;
esac
version=$(sed -n 's/.*"llama-cpp-python==\(.*\)".*/\1/p' pyproject.toml)
# The oldest supported system, whose libraries work on later ones.
suite=bookworm
gcc=12
# With LLVM's OpenMP of the same version, because without OpenMP, ggml's threads busy-wait for each other.
clang=19
# The glibc of Ubuntu 22.04, which is older than bookworm's; pip refuses the wheel on older systems.
glibc=2.35 glibcxx=3.4.30

missing=()
for program in "clang++-$clang" "ld.lld-$clang" mmdebstrap readelf; do
  command -v "$program" >/dev/null || missing+=("$program")
done
if [ ${#missing[@]} -gt 0 ]; then
  echo "build_llama.sh: not found: ${missing[*]}; on Debian 13:" >&2
  echo "  apt-get install clang-$clang lld-$clang mmdebstrap binutils" >&2
  exit 69
fi

work=$PWD/build/wheels
export WHEEL_CLANG=$clang WHEEL_ARCH=$arch WHEEL_SYSROOT=$work/$arch/sysroot WHEEL_SOURCE=$work/$arch/source
mkdir -p "$work/$arch" dist

tools=$work/tools
if ! [ -e "$tools/complete" ]; then
  "${PYTHON:-python3}" -m venv --clear "$tools"
  "$tools/bin/pip" install --quiet --disable-pip-version-check --requirement ansible/wheels/tools.txt
  touch "$tools/complete"
fi
PATH=$tools/bin:$PATH

if ! [ -e "$WHEEL_SYSROOT/complete" ]; then
  echo "making a root of Debian $suite for $debian_arch (apt packages, about 150 MB)"
  rm -rf "$WHEEL_SYSROOT"
  mmdebstrap --quiet --arch="$debian_arch" --variant=extract \
    --include="libc6-dev,libgcc-$gcc-dev,libstdc++-$gcc-dev,linux-libc-dev,libomp-$clang-dev" "$suite" "$WHEEL_SYSROOT"
  # An absolute link leads out of the root, so the linker would silently take the static library, which fails at load.
  find "$WHEEL_SYSROOT" -type l -lname '/*' | while read -r link; do
    ln -sfnr "$WHEEL_SYSROOT$(readlink "$link")" "$link"
  done
  # The folder of the header also holds those of another clang.
  cp --preserve=timestamps "$WHEEL_SYSROOT/usr/lib/llvm-$clang/lib/clang/$clang/include/omp.h" "$WHEEL_SYSROOT/usr/include"
  ln -sfn "../llvm-$clang/lib/libomp.so.5" "$WHEEL_SYSROOT/usr/lib/$arch-linux-gnu/libomp.so"
  touch "$WHEEL_SYSROOT/complete"
fi

if ! [ -e "$WHEEL_SOURCE/complete" ]; then
  pip download --quiet --disable-pip-version-check --no-deps --no-build-isolation --no-binary llama-cpp-python \
    --dest "$work" "llama-cpp-python==$version"
  (cd "$work" && sha256sum --check --quiet) < ansible/wheels/sources.sha256
  rm -rf "$WHEEL_SOURCE"
  mkdir "$WHEEL_SOURCE"
  tar --extract --strip-components 1 --directory "$WHEEL_SOURCE" --file "$work/llama_cpp_python-$version.tar.gz"
  # The code that llama.cpp's programs share takes half of the time and is not in the wheel, but CMakeLists.txt requires it.
  sed -i '/set(LLAMA_BUILD_COMMON ON/d' "$WHEEL_SOURCE/CMakeLists.txt"
  # The linker would see the folder of the build, on which its build ID and the layout of a library depend.
  sed -i 's/set(CMAKE_BUILD_WITH_INSTALL_RPATH FALSE)/set(CMAKE_BUILD_WITH_INSTALL_RPATH TRUE)/' "$WHEEL_SOURCE/CMakeLists.txt"
  touch "$WHEEL_SOURCE/complete"
fi

options=(
  "-DCMAKE_TOOLCHAIN_FILE=$PWD/ansible/wheels/toolchain.cmake"
  -DGGML_NATIVE=OFF -DGGML_BACKEND_DL=ON -DGGML_CPU_ALL_VARIANTS=ON
  # A relative path, which GGML_BACKEND_DIR cannot be.
  -DCMAKE_INSTALL_BINDIR:STRING=llama_cpp/lib
  -DLLAVA_BUILD=OFF -DLLAMA_BUILD_COMMON=OFF
)
# Files in the wheel have the oldest time that zip can hold, so that equal contents make equal wheels.
export SOURCE_DATE_EPOCH=315532800
built=$work/$arch/built
rm -rf "$built"
_PYTHON_HOST_PLATFORM=linux-$arch CMAKE_ARGS="${options[*]} ${CMAKE_OPTIONS:-}" \
  pip wheel --disable-pip-version-check --no-deps --no-build-isolation --no-cache-dir --wheel-dir "$built" \
  -C build-dir="$work/$arch/cmake" -C install.strip=false "$WHEEL_SOURCE"

wheel unpack --dest "$built" "$built"/*.whl
tree=$built/llama_cpp_python-$version
# A wheel holds no links, so every library is in it under three names, twice. Files for C programs lie beside the package.
rm -r "$tree/lib" "$tree/include" "$tree"/llama_cpp/lib/lib*.so.*.*
cp "$WHEEL_SYSROOT/usr/lib/llvm-$clang/lib/libomp.so.5" "$tree/llama_cpp/lib"
cp "$WHEEL_SYSROOT/usr/share/doc/libomp5-$clang/copyright" "$tree/llama_cpp/lib/libomp.copyright"
# What the wheel is made of, for the SBOM of a wheelhouse (PEP 770). The changelog is the only file that names the commit.
parts=ansible/wheels/llama_cpp.cdx.json
commit=$(sed -n 's|.*github/ggml-org/llama.cpp@\(.*\)".*|\1|p' "$parts")
sed -n "/^## \[$version\]/,/^## \[0/p" "$WHEEL_SOURCE/CHANGELOG.md" | grep -q "ggml-org/llama.cpp@$commit\$" ||
  { echo "build_llama.sh: the changelog of llama-cpp-python $version names another llama.cpp than $parts" >&2; exit 1; }
libomp=$(zcat "$WHEEL_SYSROOT/usr/share/doc/libomp5-$clang/changelog.Debian.gz" | sed -n '1s/.*(\(.*\)).*/\1/p')
info=$tree/llama_cpp_python-$version.dist-info
mkdir "$info/sboms"
sed "s/@LIBOMP@/$libomp/g" "$parts" > "$info/sboms/llama_cpp.cdx.json"
cp "$WHEEL_SOURCE/vendor/llama.cpp/LICENSE" "$info/licenses/LICENSE.llama.cpp"
python ansible/wheels/check_symbols.py "$tree" "$arch" --glibc "$glibc" --glibcxx "$glibcxx"
rm "$built"/*.whl
wheel pack --dest-dir "$built" "$tree"
wheel tags --remove --platform-tag "manylinux_${glibc/./_}_$arch" "$built"/*.whl
mv "$built"/*.whl dist
ls -l dist/llama_cpp_python-"$version"-*"$arch".whl
