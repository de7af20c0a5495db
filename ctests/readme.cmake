# The README's C compiles as it stands, and every file that it points at exists.
file(READ "${README}" text)
string(REGEX REPLACE "[][;]" " " links "${text}") # what CMake's lists cannot hold
string(REGEX MATCHALL "\\([A-Za-z/_-]+([.](md|c|h))?\\)" links "${links}")
list(FILTER links INCLUDE REGEX "[/.A-Z]")
get_filename_component(root "${README}" DIRECTORY)
foreach(link IN LISTS links)
  string(REGEX REPLACE "[()]" "" link "${link}")
  if(NOT EXISTS "${root}/${link}")
    message(SEND_ERROR "${README} points at ${link}, which does not exist")
  endif()
endforeach()
if(NOT links)
  message(SEND_ERROR "no link found in ${README}")
endif()

string(FIND "${text}" "```c\n" from)
if(from EQUAL -1)
  message(FATAL_ERROR "no C in ${README}")
endif()
math(EXPR from "${from} + 5")
string(SUBSTRING "${text}" ${from} -1 code)
string(FIND "${code}" "```" length)
string(SUBSTRING "${code}" 0 ${length} code)
file(WRITE "${WORK}/readme.c" "${code}")
execute_process(COMMAND "${COMPILER}" -std=c99 -Wall -Wextra -Wpedantic -Werror -fsyntax-only "-I${root}/include"
                        "${WORK}/readme.c"
                COMMAND_ERROR_IS_FATAL ANY)
