/* Forgets to free what it got from the library. The sanitizer and valgrind must say so; else the tests that rely on them
   prove nothing. */
#include "check.h"
#include "layers.h"

int main(void)
{
    start("leak");
    struct graphdriver_status *status = graphdriver_get_status();
    CHECK(status);
    status = NULL; /* the only pointer to it */
    CHECK(graphdriver_cleanup() == 0);
    return 0;
}
