/*-------------------------------------------------------------------------
 *
 * launcher.h
 *		The process that starts a worker for each subscription.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_LAUNCHER_H
#define OI_LAUNCHER_H

#include "compat.h"

extern void oi_launcher_register(void);

OI_NORETURN extern PGDLLEXPORT void oi_launcher_main(Datum arg);

#endif							/* OI_LAUNCHER_H */
