/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Stand-in for iSulad: the daemon's configuration. */
#ifndef STANDIN_ISULAD_CONFIG_H
#define STANDIN_ISULAD_CONFIG_H

#ifdef __cplusplus
extern "C" {
#endif

#ifdef ENABLE_USERNS_REMAP
/* What conf_get_isulad_userns_remap copies; NULL: not configured. */
extern const char *standin_userns_remap;

char *conf_get_isulad_userns_remap(void);
#endif

#ifdef __cplusplus
}
#endif

#endif
