/*-------------------------------------------------------------------------
 *
 * judge.h
 *		What becomes of the events of a delivery.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_JUDGE_H
#define OI_JUDGE_H

#include "drain.h"

/* events of a batch that are handed to the sink together */
typedef struct OiDelivery
{
	OiSinkEvent *events;		/* copies, which the sink fills */
	int		   *which;			/* where in the batch each of them is */
	int			n;
	int			timeout;		/* ms that the sink may take */
	bool		unfit;			/* the sink is not asked: they are rejected */
} OiDelivery;

/* how a delivery went */
typedef struct OiVerdict
{
	int			delivered;
	int			parked;
	int			dead;
	int			keys;			/* that have an event which failed */
	int			new_keys;		/* of them and those waiting, not held before */
	int			retry_after;	/* the longest time that was asked for, in ms */
	const char *reason;			/* of the first event that failed */
} OiVerdict;

extern void oi_judge_set_aside(OiBatch *batch, const OiHeld *held);
extern bool oi_judge_has_open(const OiBatch *batch);
extern OiDelivery *oi_judge_choose(OiBatch *batch, int limit);
extern OiDelivery *oi_judge_choose_unfit(const OiBatch *batch);
extern void oi_judge_failure(OiDelivery *delivery, const char *error);
extern OiVerdict oi_judge(const OiSubscription *sub, OiBatch *batch,
						  const OiDelivery *delivery, const OiHeld *held,
						  bool probe, TimestampTz now);
extern void oi_judge_reopen(OiBatch *batch, const OiDelivery *delivery);
extern void oi_judge_report_dead(const OiSubscription *sub, const OiVerdict *verdict);

#endif							/* OI_JUDGE_H */
