/*-------------------------------------------------------------------------
 *
 * handover.h
 *		Handing events to the sink.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_HANDOVER_H
#define OI_HANDOVER_H

#include "cycle.h"

/* how it went */
typedef enum OiHandover
{
	OI_HANDOVER_ANSWERED,		/* each event has its outcome */
	OI_HANDOVER_FAILED,			/* the call as a whole did */
	OI_HANDOVER_NOT_STARTED,	/* there is no sink to hand over to */
} OiHandover;

extern void oi_handover_set_timeout(OiDelivery *delivery, const OiBatch *batch);
extern OiHandover oi_handover(OiDelivery *delivery, char **error);
extern bool oi_handover_was_received(OiDelivery *delivery);

#endif							/* OI_HANDOVER_H */
