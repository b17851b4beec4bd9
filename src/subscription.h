/*-------------------------------------------------------------------------
 *
 * subscription.h
 *		Subscriptions, as sessions create and change them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_SUBSCRIPTION_H
#define OI_SUBSCRIPTION_H

#include "cursor.h"
#include "foreign/foreign.h"
#include "relation.h"
#include "shmem.h"
#include "utils/array.h"
#include "utils/jsonb.h"

/* a server of this wrapper, with the sink's name behind it, is a sink */
#define OI_SINK_PREFIX "order_idempotency_"

/* options of a subscription that are whole numbers; see subscription_args.c */
typedef enum OiOption
{
	OI_OPTION_BACKOFF_MAX,
	OI_OPTION_BACKOFF_MIN,
	OI_OPTION_BATCH_SIZE,
	OI_OPTION_MAX_ATTEMPTS,
	OI_OPTION_MAX_PARKED_KEYS,
	OI_OPTION_COUNT
} OiOption;

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
	SUB_PAUSED_AT,
	SUB_INVALIDATED_AT,
	SUB_COLUMNS = SUB_INVALIDATED_AT
};

/* columns of subscription_cursors, as they are stored */
enum
{
	CURSOR_SUBSCRIPTION = 1,
	CURSOR_BEHIND,
	CURSOR_BEHIND_POSITION,
	CURSOR_BEHIND_NEXT_XID,
	CURSOR_BATCH,
	CURSOR_BATCH_POSITION,
	CURSOR_BATCH_NEXT_XID,
	CURSOR_PROGRESS,
	CURSOR_DELIVERED,
	CURSOR_DELIVERED_AT,
	CURSOR_RETRIED,
	CURSOR_BEHIND_ALL_ABOVE,
	CURSOR_TURN,
	CURSOR_TOKEN,
	CURSOR_TOKEN_TIMELINE,
	CURSOR_OPEN_LOG,
	CURSOR_OPEN_UPTO,
	CURSOR_OPEN_FAILED,
	CURSOR_SETTLED,
	CURSOR_COLUMNS = CURSOR_SETTLED
};

/* in subscription.c */
extern OiFound *oi_subscriptions_found(int *n);
extern bool oi_subscription_is_orphan(TupleTableSlot *row);
extern int32 oi_subscription_open(OiTable *table, const char *name);
extern void oi_subscription_note_change(void);
extern char *oi_required_text(FunctionCallInfo fcinfo, int number, const char *what);

/* in subscription_control.c */
extern void oi_subscription_touch(int32 id);

/* in redrive.c */
extern int64 oi_failed_discard_all(int32 id);

/* in subscription_args.c */
extern void oi_check_subscription_name(const char *name);
extern void oi_check_event_types(ArrayType *types);
extern void oi_check_options(Jsonb *options, bool *from_start);
extern int	oi_option_int(Jsonb *options, OiOption which);
extern bool oi_option_skips_dead(Jsonb *options);
extern const char *oi_check_server(const ForeignServer *server,
								   const ForeignDataWrapper *wrapper, Oid owner);

#endif							/* OI_SUBSCRIPTION_H */
