/*-------------------------------------------------------------------------
 *
 * subscription.h
 *		Creating, dropping, resuming and finding subscriptions.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_SUBSCRIPTION_H
#define OI_SUBSCRIPTION_H

#include "foreign/foreign.h"
#include "shmem.h"
#include "utils/array.h"
#include "utils/jsonb.h"

/* a server of this wrapper, with the sink's name behind it, is a sink */
#define OI_SINK_PREFIX "order_idempotency_"

/* default of the option batch_size */
#define OI_BATCH_SIZE 500

/* columns of table subscriptions, as they are stored */
enum
{
	SUB_ID = 1,
	SUB_NAME,
	SUB_SERVER,
	SUB_OWNER,
	SUB_EVENT_TYPES,
	SUB_TOPIC,
	SUB_OPTIONS,
	SUB_CREATED_AT,
	SUB_ARMED_FOR,
	SUB_ARMED_DATABASE,
	SUB_ENVIRONMENT,
	SUB_COLUMNS = SUB_ENVIRONMENT
};

/* in subscription.c */
extern OiFound *oi_subscriptions_found(int *n);

/* in subscription_args.c */
extern void oi_check_subscription_name(const char *name);
extern void oi_check_event_types(ArrayType *types);
extern void oi_check_options(Jsonb *options, bool *from_start);
extern void oi_check_topic(const char *sink, const char *topic);
extern const char *oi_check_server(const ForeignServer *server,
								   const ForeignDataWrapper *wrapper, Oid owner);

#endif							/* OI_SUBSCRIPTION_H */
