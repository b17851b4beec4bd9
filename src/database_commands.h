/*-------------------------------------------------------------------------
 *
 * database_commands.h
 *		Making room for commands that want a database for themselves.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_DATABASE_COMMANDS_H
#define OI_DATABASE_COMMANDS_H

extern void oi_database_commands_init(void);

#endif							/* OI_DATABASE_COMMANDS_H */
