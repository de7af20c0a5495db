// The same from C++11, with a callback that is a lambda.
#include <graphdriver.h>
#include <iostream>
#include <string>

int main()
{
    std::string seen;
    graphdriver_set_log_callback([](int, const char *line, void *user) { *static_cast<std::string *>(user) = line; }, &seen);
    if (graphdriver_mount_layer("none", nullptr) || seen.empty())
        return 1;
    std::cout << "libgraphdriver " << graphdriver_version() << ": " << seen << "\n";
    return graphdriver_abi_version() != 1;
}
