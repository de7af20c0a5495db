/* SPDX-License-Identifier: MulanPSL-2.0 */
/* The second of the two files of iSulad that include driver.h: `isula info`. */
#ifndef CTESTS_ISULAD_IMAGE_H
#define CTESTS_ISULAD_IMAGE_H

/* Checks the status of an initialised driver of that name. */
void image_check_status(const char *driver_name);

/* Checks that there is no status. */
void image_check_no_status(void);

#endif
