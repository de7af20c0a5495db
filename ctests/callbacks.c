/* Where lines and sentences go: to the host program's own functions, on the thread of the call, or nowhere. */
#include "check.h"
#include "layers.h"
#include "store.h"

#include <pthread.h>

struct sink {
    size_t lines, errors, sentences;
    char last[4096], sentence[4096];
    pthread_t thread;
};

static void on_line(int level, const char *line, void *user)
{
    struct sink *sink = user;
    CHECK(level == 3 || level == 4 || level == 6 || level == 7);
    CHECK(*line && !strchr(line, '\n'));
    sink->lines++;
    sink->errors += level == 3;
    sink->thread = pthread_self();
    if (level == 3)
        snprintf(sink->last, sizeof sink->last, "%s", line);
}

static void on_sentence(const char *message, void *user)
{
    struct sink *sink = user;
    sink->sentences++;
    sink->thread = pthread_self();
    snprintf(sink->sentence, sizeof sink->sentence, "%s", message);
}

/* Calls the library from inside a callback: no lock of it is held then. */
static void on_line_call_back(int level, const char *line, void *user)
{
    (void)level, (void)line;
    (*(int *)user)++;
    graphdriver_set_log_callback(NULL, NULL);
    CHECK(graphdriver_layer_exists("image"));
}

/* Fails at something else from inside the callbacks of a failure. */
static void fail_again(const char *message, void *user)
{
    const char *text = graphdriver_last_error();
    CHECK_STR(text, message); /* already that of the failure that this is about */
    graphdriver_set_error_callback(NULL, NULL);
    graphdriver_set_log_callback(NULL, NULL);
    CHECK(graphdriver_mount_layer("no-such-layer", NULL) == NULL && errno == ENOENT);
    CHECK(strstr(graphdriver_last_error(), "no-such-layer"));
    CHECK_STR(text, message); /* what was asked for first is still there */
    ++*(int *)user;
}

static void fail_again_at_line(int level, const char *line, void *user)
{
    (void)level, (void)line;
    graphdriver_set_log_callback(NULL, NULL);
    CHECK(graphdriver_mount_layer("no-such-layer", NULL) == NULL);
    ++*(int *)user;
}

int main(void)
{
    struct sink sink = { 0 };
    struct driver_create_opts none = { NULL, NULL };
    start("callbacks");
    make_base("image");

    graphdriver_set_log_callback(on_line, &sink);
    graphdriver_set_error_callback(on_sentence, &sink);
    CHECK(graphdriver_create_rw("child", "no-such-parent", &none) == -1);
    CHECK(sink.errors == 1 && strstr(sink.last, "no-such-parent")); /* one failure, one line */
    CHECK(pthread_equal(sink.thread, pthread_self()));
    CHECK(sink.sentences == 0); /* nothing that the daemon's user should read */

    /* A quota where the filesystem has none: the contract's exact sentence, and only it, reaches the user. */
    const char *sentence = "--storage-opt is supported only for overlay over xfs or ext4 with 'pquota' mount option";
    char *keys[] = { "size" }, *values[] = { "1G" };
    json_map_string_string map = { keys, values, 1 };
    struct driver_create_opts quota = { NULL, &map };
    CHECK(graphdriver_create_rw("child", "image", &quota) == -1);
    CHECK(sink.sentences == 1);
    CHECK_STR(sink.sentence, sentence);
    CHECK_STR(graphdriver_last_error(), sentence);
    CHECK(sink.errors == 2);

    graphdriver_set_log_callback(NULL, NULL);
    graphdriver_set_error_callback(NULL, NULL);
    size_t lines = sink.lines;
    CHECK(graphdriver_create_rw("child", "no-such-parent", &none) == -1);
    CHECK(sink.lines == lines && sink.sentences == 1);

    int calls = 0;
    graphdriver_set_log_callback(on_line_call_back, &calls);
    CHECK(graphdriver_create_rw("child", "no-such-parent", &none) == -1);
    CHECK(calls == 1);
    CHECK(strstr(graphdriver_last_error(), "no-such-parent")); /* the callback's own calls did not replace it */

    calls = 0;
    graphdriver_set_log_callback(fail_again_at_line, &calls);
    CHECK(graphdriver_create_rw("child", "no-such-parent", &none) == -1 && errno == ENOENT);
    CHECK(calls == 1 && strstr(graphdriver_last_error(), "no-such-parent"));
    graphdriver_set_error_callback(fail_again, &calls);
    CHECK(graphdriver_create_rw("child", "image", &quota) == -1 && errno == EOPNOTSUPP);
    CHECK(calls == 2);
    CHECK_STR(graphdriver_last_error(), sentence);
    drop("image");
    CHECK(graphdriver_cleanup() == 0);
    return 0;
}
