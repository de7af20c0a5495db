/* A program that does not link the library but loads it, as a daemon with plug-ins does. Argument: the library's path. */
#include "check.h"
#include "store.h"
#include "tar.h"

#include <dlfcn.h>
#include <graphdriver.h>
#include <pthread.h>

/* ISO C has no conversion from void * to a function pointer; POSIX has. */
#define FUNCTION(name) __typeof__(&name) name##_ = (__typeof__(&name))(intptr_t)symbol(library, #name)

static void *symbol(void *library, const char *name)
{
    void *address = dlsym(library, name);
    if (!address)
        fprintf(stderr, "%s\n", dlerror());
    CHECK(address);
    return address;
}

static void use(void *library, const char *root)
{
    FUNCTION(graphdriver_init_at);
    FUNCTION(graphdriver_create_ro);
    FUNCTION(graphdriver_create_rw);
    FUNCTION(graphdriver_unpack_layer);
    FUNCTION(graphdriver_mount_layer);
    FUNCTION(graphdriver_umount_layer);
    FUNCTION(graphdriver_rm_layer);
    FUNCTION(graphdriver_cleanup);
    FUNCTION(graphdriver_last_error);
    struct driver_create_opts options = { NULL, NULL };
    struct tar tar = { 0 };
    int64_t size = 0;
    tar_file(&tar, "hello", 0644, "from a layer");
    tar_end(&tar);

    CHECK(graphdriver_init_at_("overlay2", root, NULL, 0) == 0);
    CHECK(graphdriver_create_ro_("image", NULL, &options) == 0);
    CHECK(graphdriver_unpack_layer_("image", &tar, tar_read, &size) == 0 && size == 12);
    CHECK(graphdriver_create_rw_("container", "image", &options) == 0);
    char *rootfs = graphdriver_mount_layer_("container", NULL);
    CHECK(rootfs);
    char *text = read_file(store_path("overlay2/container/merged/hello"));
    CHECK_STR(text, "from a layer");
    free(text);
    free(rootfs);
    CHECK(graphdriver_mount_layer_("missing", NULL) == NULL && strstr(graphdriver_last_error_(), "missing"));
    CHECK(graphdriver_umount_layer_("container") == 0);
    CHECK(graphdriver_rm_layer_("container") == 0 && graphdriver_rm_layer_("image") == 0);
    CHECK(graphdriver_cleanup_() == 0);
    tar_free(&tar);
}

static pthread_barrier_t failed, closed;
static __typeof__(&graphdriver_mount_layer) mount_layer;

/* Has a last error of its own, whose destructor runs at the end of the thread: after main() closed the library. */
static void *fail_and_wait(void *argument)
{
    (void)argument;
    CHECK(mount_layer("missing", NULL) == NULL);
    pthread_barrier_wait(&failed);
    pthread_barrier_wait(&closed);
    return NULL;
}

int main(int argc, char **argv)
{
    CHECK(argc == 2);
    const char *root = store_make("load");
    CHECK(pthread_barrier_init(&failed, NULL, 2) == 0 && pthread_barrier_init(&closed, NULL, 2) == 0);

    void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    if (!library)
        fprintf(stderr, "%s\n", dlerror());
    CHECK(library);
    CHECK(!dlsym(RTLD_DEFAULT, "graphdriver_init")); /* not linked, not global */
    FUNCTION(graphdriver_version);
    FUNCTION(graphdriver_abi_version);
    CHECK(*graphdriver_version_() && graphdriver_abi_version_() == 1);
    use(library, root);

    pthread_t thread;
    FUNCTION(graphdriver_mount_layer);
    mount_layer = graphdriver_mount_layer_;
    CHECK(pthread_create(&thread, NULL, fail_and_wait, NULL) == 0);
    pthread_barrier_wait(&failed);
    CHECK(dlclose(library) == 0);
    pthread_barrier_wait(&closed);
    CHECK(pthread_join(thread, NULL) == 0);

    library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    CHECK(library);
    use(library, root);
    CHECK(dlclose(library) == 0);
    return 0;
}
