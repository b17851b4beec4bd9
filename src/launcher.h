/*-------------------------------------------------------------------------
 *
 * launcher.h
 *		The process that starts a worker for each subscription.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_LAUNCHER_H
#define OI_LAUNCHER_H

extern void oi_launcher_register(void);

extern PGDLLEXPORT void oi_launcher_main(Datum arg) pg_attribute_noreturn();
extern PGDLLEXPORT void oi_scout_main(Datum arg);

#endif							/* OI_LAUNCHER_H */
