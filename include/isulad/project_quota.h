/* SPDX-License-Identifier: MulanPSL-2.0 */
/* iSulad's unit tests include a header of this name for the kernel's quota types alone (test/mocks/driver_quota_mock.h). */
#ifndef GRAPHDRIVER_ISULAD_PROJECT_QUOTA_H
#define GRAPHDRIVER_ISULAD_PROJECT_QUOTA_H

#include <sys/types.h>

#include <linux/dqblk_xfs.h>
#include <linux/quota.h>

#endif
