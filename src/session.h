/*-------------------------------------------------------------------------
 *
 * session.h
 *		What the sessions of background processes have in common.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_SESSION_H
#define OI_SESSION_H

extern void oi_session_settle(void);
extern bool oi_session_interrupts(void);

#endif							/* OI_SESSION_H */
