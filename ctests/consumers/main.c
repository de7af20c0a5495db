/* Enough to need the header, the library at link time and the library at run time. */
#include <graphdriver.h>
#include <stdio.h>
#include <string.h>

int main(void)
{
    if (graphdriver_mount_layer("none", NULL) || !strlen(graphdriver_last_error()))
        return 1;
    printf("libgraphdriver %s, ABI %u\n", graphdriver_version(), (unsigned)graphdriver_abi_version());
    return graphdriver_abi_version() != 1;
}
