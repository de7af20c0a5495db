/* SPDX-License-Identifier: MulanPSL-2.0 */
/* iSulad's remote-layer sources include a header of this name without using anything of it. */
#ifndef GRAPHDRIVER_ISULAD_DRIVER_OVERLAY2_H
#define GRAPHDRIVER_ISULAD_DRIVER_OVERLAY2_H
#endif
