/* A host program with signals of its own: a timer goes off all the time, without SA_RESTART, on whatever thread the kernel
   picks. No call may take the interruption for a failure. */
#include "check.h"
#include "layers.h"
#include "store.h"

#include <signal.h>
#include <sys/time.h>

#define ROUNDS 40

static volatile sig_atomic_t interruptions;

static void interrupt(int signal)
{
    (void)signal;
    interruptions = interruptions + 1;
}

int main(void)
{
    const char *root = start("signals");
    struct sigaction action = { .sa_handler = interrupt };
    struct itimerval every = { { 0, 200 }, { 0, 200 } }, never = { { 0, 0 }, { 0, 0 } };
    CHECK(sigaction(SIGALRM, &action, NULL) == 0);
    CHECK(setitimer(ITIMER_REAL, &every, NULL) == 0);
    for (int i = 0; i < ROUNDS; i++) {
        make_base("image");
        make_second("second", "image");
        make_rw("container", "second");
        char *path = graphdriver_mount_layer("container", NULL);
        CHECK(path);
        free(path);
        uint64_t bytes;
        CHECK(graphdriver_get_layer_usage("container", &bytes, NULL) == 0);
        drop("container");
        drop("second");
        drop("image");
        CHECK(graphdriver_cleanup() == 0);
        CHECK(graphdriver_init("overlay2", root, NULL, 0) == 0);
    }
    CHECK(setitimer(ITIMER_REAL, &never, NULL) == 0);
    printf("%d interruptions\n", (int)interruptions);
    CHECK(interruptions > ROUNDS);
    CHECK(graphdriver_cleanup() == 0);
    return 0;
}
