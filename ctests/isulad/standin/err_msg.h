/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Stand-in for iSulad: the message that the client of the calling thread's request will read. */
#ifndef STANDIN_ERR_MSG_H
#define STANDIN_ERR_MSG_H

#ifdef __cplusplus
extern "C" {
#endif

extern __thread char *g_isulad_errmsg;

__attribute__((format(printf, 1, 2))) void isulad_set_error_message(const char *format, ...);

/* Does nothing if the thread has a message. */
__attribute__((format(printf, 1, 2))) void isulad_try_set_error_message(const char *format, ...);

#ifdef __cplusplus
}
#endif

#endif
