/*-------------------------------------------------------------------------
 *
 * maintenance.h
 *		The process that visits a database.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_MAINTENANCE_H
#define OI_MAINTENANCE_H

#include "compat.h"

OI_NORETURN extern PGDLLEXPORT void oi_maintenance_main(Datum arg);

#endif							/* OI_MAINTENANCE_H */
