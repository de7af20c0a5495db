/* SPDX-License-Identifier: MulanPSL-2.0 */
/* Functions of C++ linkage: driver.h must bring its own. */
#include "image.c"
