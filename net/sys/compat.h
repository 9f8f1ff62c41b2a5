/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What differs in C between the kernels that the module is built for: the one place for it, as net/kapi/kernels.rs is
 * for Rust. Kbuild looks into the kernel's headers and defines USB4_HAS_..., as versions lie where distributions patch.
 */
#ifndef USB4_COMPAT_H
#define USB4_COMPAT_H

/* Before 7.3 a service's driver is given the entry of its table that has matched. */
#ifdef USB4_HAS_PROBE_ID
#define USB4_TB_PROBE_ARGS struct tb_service *svc, const struct tb_service_id *id
#else
#define USB4_TB_PROBE_ARGS struct tb_service *svc
#endif

#endif
