/* SPDX-License-Identifier: MulanPSL-2.0 */
/* The same program in the language of iSulad's unit tests. */
#include "layer_store.c"
