# Builds libgraphdriver with cargo and describes it to CMake as the targets
#   GraphDriver::graphdriver         the shared library
#   GraphDriver::graphdriver_static  the static one
#   GraphDriver::isulad              the shared library behind iSulad's own driver.h
# With GRAPHDRIVER_TOOL, the program graphdriver as well: the target graphdriver_tool.
#
# Whether anything has to be built is cargo's decision: it runs at every build and takes milliseconds when nothing changed.
# What it made is copied only when it differs, so nothing that links against it is rebuilt for nothing.

find_program(CARGO cargo HINTS ENV CARGO_HOME "$ENV{HOME}/.cargo" PATH_SUFFIXES bin REQUIRED
             DOC "The cargo to build with (Rust 1.87 or newer)")
set(GRAPHDRIVER_TARGET_DIR "${CMAKE_CURRENT_BINARY_DIR}/cargo" CACHE PATH "Where cargo keeps what it builds")
set(GRAPHDRIVER_CARGO_FLAGS "" CACHE STRING "More arguments for cargo, such as --offline")

# Cross-compiling is asked for as CMake has it, with a toolchain file (such as cmake/aarch64-linux-gnu.cmake). Cargo then puts what
# it makes into a directory of that target, so a library of the host is never taken for it; it links and compiles with CMake's tools.
set(graphdriver_default_target "")
if(CMAKE_CROSSCOMPILING)
  set(graphdriver_default_target "${CMAKE_SYSTEM_PROCESSOR}-unknown-linux-gnu")
endif()
set(GRAPHDRIVER_RUST_TARGET "${graphdriver_default_target}" CACHE STRING "What to build for, as rustc names it; empty: the host")
set(graphdriver_made "${GRAPHDRIVER_TARGET_DIR}/release")
set(graphdriver_cross_env "")
set(graphdriver_cross_flags "")
if(GRAPHDRIVER_RUST_TARGET)
  set(graphdriver_made "${GRAPHDRIVER_TARGET_DIR}/${GRAPHDRIVER_RUST_TARGET}/release")
  string(REPLACE "-" "_" triple "${GRAPHDRIVER_RUST_TARGET}")
  string(TOUPPER "${triple}" TRIPLE)
  list(APPEND graphdriver_cross_env "CARGO_TARGET_${TRIPLE}_LINKER=${CMAKE_C_COMPILER}" "CC_${triple}=${CMAKE_C_COMPILER}"
       "AR_${triple}=${CMAKE_AR}" PKG_CONFIG_ALLOW_CROSS=1)
  # Debian keeps the libraries of several machines side by side; elsewhere the environment says where the target's are.
  if(CMAKE_LIBRARY_ARCHITECTURE AND NOT DEFINED ENV{PKG_CONFIG_LIBDIR_${triple}})
    list(APPEND graphdriver_cross_env
         "PKG_CONFIG_LIBDIR_${triple}=/usr/lib/${CMAKE_LIBRARY_ARCHITECTURE}/pkgconfig:/usr/share/pkgconfig")
  endif()
  list(APPEND graphdriver_cross_flags --target "${GRAPHDRIVER_RUST_TARGET}")
endif()

set(graphdriver_lib "${CMAKE_CURRENT_BINARY_DIR}/lib")
set(graphdriver_so "libgraphdriver.so.${PROJECT_VERSION}")
set(graphdriver_soname "libgraphdriver.so.${PROJECT_VERSION_MAJOR}")

# -Bsymbolic-functions: a host program that has a function of the same name (iSulad did) must not take over ours.
# -z nodelete: threads and thread-local destructors outlive a dlclose().
# One cargo call for both libraries: two calls would throw away each other's result.
add_custom_target(graphdriver_cargo ALL
  COMMAND "${CMAKE_COMMAND}" -E env "CARGO_TARGET_DIR=${GRAPHDRIVER_TARGET_DIR}" ${graphdriver_cross_env}
          "${CARGO}" rustc --locked --release --lib --crate-type cdylib,staticlib ${graphdriver_cross_flags}
          ${GRAPHDRIVER_CARGO_FLAGS} --
          -C "link-arg=-Wl,-soname,${graphdriver_soname}" -C link-arg=-Wl,-Bsymbolic-functions
          -C link-arg=-Wl,-z,nodelete
  COMMAND "${CMAKE_COMMAND}" -E copy_if_different
          "${graphdriver_made}/libgraphdriver.so" "${graphdriver_lib}/${graphdriver_so}"
  COMMAND "${CMAKE_COMMAND}" -E copy_if_different
          "${graphdriver_made}/libgraphdriver.a" "${graphdriver_lib}/libgraphdriver.a"
  BYPRODUCTS "${graphdriver_lib}/${graphdriver_so}" "${graphdriver_lib}/libgraphdriver.a"
  WORKING_DIRECTORY "${CMAKE_CURRENT_SOURCE_DIR}"
  COMMENT "Building libgraphdriver with cargo"
  USES_TERMINAL VERBATIM)

# The program has the library in it. Cargo locks its directory: this call waits for the one above anyway.
if(GRAPHDRIVER_TOOL)
  set(graphdriver_tool "${graphdriver_made}/graphdriver")
  add_custom_target(graphdriver_tool ALL
    COMMAND "${CMAKE_COMMAND}" -E env "CARGO_TARGET_DIR=${GRAPHDRIVER_TARGET_DIR}" ${graphdriver_cross_env}
            "${CARGO}" build --locked --release --package graphdriver-tool ${graphdriver_cross_flags} ${GRAPHDRIVER_CARGO_FLAGS}
    BYPRODUCTS "${graphdriver_tool}"
    WORKING_DIRECTORY "${CMAKE_CURRENT_SOURCE_DIR}"
    COMMENT "Building the program graphdriver with cargo"
    USES_TERMINAL VERBATIM)
  add_dependencies(graphdriver_tool graphdriver_cargo)
endif()

file(MAKE_DIRECTORY "${graphdriver_lib}")
file(CREATE_LINK "${graphdriver_so}" "${graphdriver_lib}/${graphdriver_soname}" SYMBOLIC)
file(CREATE_LINK "${graphdriver_soname}" "${graphdriver_lib}/libgraphdriver.so" SYMBOLIC)

add_library(GraphDriver::graphdriver SHARED IMPORTED GLOBAL)
set_target_properties(GraphDriver::graphdriver PROPERTIES
  IMPORTED_LOCATION "${graphdriver_lib}/${graphdriver_so}"
  IMPORTED_SONAME "${graphdriver_soname}"
  INTERFACE_INCLUDE_DIRECTORIES "${CMAKE_CURRENT_SOURCE_DIR}/include")

# The system libraries are those that `rustc --print native-static-libs` lists.
add_library(GraphDriver::graphdriver_static STATIC IMPORTED GLOBAL)
set_target_properties(GraphDriver::graphdriver_static PROPERTIES
  IMPORTED_LOCATION "${graphdriver_lib}/libgraphdriver.a"
  IMPORTED_LINK_INTERFACE_LANGUAGES C
  INTERFACE_LINK_LIBRARIES "gcc_s;util;rt;pthread;m;dl"
  INTERFACE_INCLUDE_DIRECTORIES "${CMAKE_CURRENT_SOURCE_DIR}/include")

# -iquote goes before every -I of the program: iSulad has a driver.h of its own on its include path. It must not be an include
# directory of the target as well: CMake would make that -isystem, and GCC drops a -iquote that is also a -isystem.
add_library(GraphDriver::isulad INTERFACE IMPORTED GLOBAL)
set_target_properties(GraphDriver::isulad PROPERTIES
  INTERFACE_LINK_LIBRARIES GraphDriver::graphdriver
  INTERFACE_COMPILE_OPTIONS "SHELL:-iquote ${CMAKE_CURRENT_SOURCE_DIR}/include/isulad")

add_dependencies(GraphDriver::graphdriver graphdriver_cargo)
add_dependencies(GraphDriver::graphdriver_static graphdriver_cargo)
