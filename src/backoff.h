/*-------------------------------------------------------------------------
 *
 * backoff.h
 *		How long to wait before another attempt.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_BACKOFF_H
#define OI_BACKOFF_H

extern int	oi_backoff(int failures, int first, int most, double jitter);

#endif							/* OI_BACKOFF_H */
