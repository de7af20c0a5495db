/* SPDX-License-Identifier: MulanPSL-2.0 */
/* In the place of iSulad's own driver.h, which its build files may still have on the include path. */
#error "the header that was to be replaced was found first"
