/* A host program under seccomp: it installs a filter for all its threads while a layer is unpacked, and the filter forbids
   seccomp itself, as some sandboxes do. */
#include "check.h"
#include "layers.h"
#include "store.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* seccomp(2) for all threads; 0, -1, or the id of a thread that cannot take it over. */
static long install(struct sock_filter *filter, unsigned short length)
{
    struct sock_fprog program = { length, filter };
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program);
}

static size_t installed;

static ssize_t install_and_read(void *context, void *buffer, size_t length)
{
    struct sock_filter allow[] = { BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW) };
    /* With the unpacking threads under way. */
    CHECK(count_threads() > 1);
    CHECK(install(allow, 1) == 0);
    installed++;
    return tar_read(context, buffer, length > 4096 ? 4096 : length);
}

int main(void)
{
    /* The number of a call is the first member of what a filter sees. */
    struct sock_filter no_seccomp[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_seccomp, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    start("sandbox");
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    whole_life(install_and_read);
    CHECK(installed > 1);
    CHECK(install(no_seccomp, sizeof no_seccomp / sizeof *no_seccomp) == 0);
    CHECK(install(no_seccomp, 1) == -1 && errno == EPERM);
    whole_life(tar_read);
    CHECK(graphdriver_cleanup() == 0);
    return 0;
}
