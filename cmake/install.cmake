# What `cmake --install` puts where. Everything installed finds its neighbours relative to itself, so the tree may be
# staged with DESTDIR, installed with another --prefix than configured, or moved.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

# Debug information is apart: in .debug beside the library, where debuggers look. The tools that build packages split it off
# themselves, and want the library whole.
option(GRAPHDRIVER_SPLIT_DEBUG "Install libraries and program stripped, and the debug information of the shared one apart" ON)
set(graphdriver_installed "${graphdriver_lib}")
set(graphdriver_installed_tool "${graphdriver_tool}")
if(GRAPHDRIVER_SPLIT_DEBUG)
  set(graphdriver_installed "${CMAKE_CURRENT_BINARY_DIR}/stripped")
  add_custom_target(graphdriver_stripped ALL
    COMMAND "${CMAKE_OBJCOPY}" --only-keep-debug "${graphdriver_lib}/${graphdriver_so}" "${graphdriver_so}.debug"
    COMMAND "${CMAKE_OBJCOPY}" --strip-unneeded "--add-gnu-debuglink=${graphdriver_so}.debug"
            "${graphdriver_lib}/${graphdriver_so}" "${graphdriver_so}"
    COMMAND "${CMAKE_OBJCOPY}" --strip-debug "${graphdriver_lib}/libgraphdriver.a" libgraphdriver.a
    WORKING_DIRECTORY "${CMAKE_CURRENT_BINARY_DIR}/stripped"
    COMMENT "Splitting the debug information off" VERBATIM)
  file(MAKE_DIRECTORY "${graphdriver_installed}")
  add_dependencies(graphdriver_stripped graphdriver_cargo)
  install(FILES "${graphdriver_installed}/${graphdriver_so}.debug" DESTINATION "${CMAKE_INSTALL_LIBDIR}/.debug")
  if(GRAPHDRIVER_TOOL)
    set(graphdriver_installed_tool "${graphdriver_installed}/graphdriver")
    add_custom_target(graphdriver_stripped_tool ALL
      COMMAND "${CMAKE_OBJCOPY}" --strip-unneeded "${graphdriver_tool}" "${graphdriver_installed_tool}"
      COMMENT "Stripping the program" VERBATIM)
    add_dependencies(graphdriver_stripped_tool graphdriver_tool)
  endif()
endif()
if(GRAPHDRIVER_TOOL)
  install(PROGRAMS "${graphdriver_installed_tool}" DESTINATION "${CMAKE_INSTALL_BINDIR}")
endif()
install(FILES "${graphdriver_installed}/${graphdriver_so}" DESTINATION "${CMAKE_INSTALL_LIBDIR}"
        PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)
install(FILES "${graphdriver_lib}/${graphdriver_soname}" "${graphdriver_lib}/libgraphdriver.so"
              "${graphdriver_installed}/libgraphdriver.a"
        DESTINATION "${CMAKE_INSTALL_LIBDIR}")
install(FILES include/graphdriver.h DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")
install(DIRECTORY include/isulad/ DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}/graphdriver/isulad")

set(config_dir "${CMAKE_INSTALL_LIBDIR}/cmake/GraphDriver")
configure_package_config_file(cmake/GraphDriverConfig.cmake.in "${CMAKE_CURRENT_BINARY_DIR}/GraphDriverConfig.cmake"
  INSTALL_DESTINATION "${config_dir}"
  PATH_VARS CMAKE_INSTALL_INCLUDEDIR CMAKE_INSTALL_LIBDIR)
write_basic_package_version_file("${CMAKE_CURRENT_BINARY_DIR}/GraphDriverConfigVersion.cmake"
  COMPATIBILITY SameMajorVersion)
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/GraphDriverConfig.cmake"
              "${CMAKE_CURRENT_BINARY_DIR}/GraphDriverConfigVersion.cmake"
        DESTINATION "${config_dir}")

# pkg-config calls the directory of the .pc file pcfiledir. An absolute LIBDIR cannot be made relative: it stays as it is.
set(pc_dir "${CMAKE_INSTALL_LIBDIR}/pkgconfig")
if(IS_ABSOLUTE "${CMAKE_INSTALL_LIBDIR}" OR IS_ABSOLUTE "${CMAKE_INSTALL_INCLUDEDIR}")
  set(pc_prefix "${CMAKE_INSTALL_PREFIX}")
  set(pc_libdir "${CMAKE_INSTALL_FULL_LIBDIR}")
  set(pc_includedir "${CMAKE_INSTALL_FULL_INCLUDEDIR}")
else()
  file(RELATIVE_PATH up "/${pc_dir}" "/")
  string(REGEX REPLACE "/$" "" pc_prefix "\${pcfiledir}/${up}")
  set(pc_libdir "\${prefix}/${CMAKE_INSTALL_LIBDIR}")
  set(pc_includedir "\${prefix}/${CMAKE_INSTALL_INCLUDEDIR}")
endif()
configure_file(cmake/graphdriver.pc.in "${CMAKE_CURRENT_BINARY_DIR}/graphdriver.pc" @ONLY)
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/graphdriver.pc" DESTINATION "${pc_dir}")
