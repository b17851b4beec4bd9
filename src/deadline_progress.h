/*-------------------------------------------------------------------------
 *
 * deadline_progress.h
 *		Telling how far the work on payment deadlines has come.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_DEADLINE_PROGRESS_H
#define OI_DEADLINE_PROGRESS_H

extern void oi_deadline_progress_add(int rows, int cancelled);
extern void oi_deadline_progress_tell(bool idle);

#endif							/* OI_DEADLINE_PROGRESS_H */
