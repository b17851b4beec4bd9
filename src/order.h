/*-------------------------------------------------------------------------
 *
 * order.h
 *		Orders and their changes.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_ORDER_H
#define OI_ORDER_H

#include "access/htup.h"
#include "access/tupdesc.h"
#include "datatype/timestamp.h"
#include "utils/jsonb.h"
#include "utils/uuid.h"

#include "history.h"
#include "lifecycle.h"
#include "relation.h"

/* the columns of table orders */
enum
{
	OI_ORDER_KEY,
	OI_ORDER_STATE,
	OI_ORDER_VERSION,
	OI_ORDER_AMOUNT,
	OI_ORDER_CREATED_AT,
	OI_ORDER_CHANGED_AT,
	OI_ORDER_TOMBSTONE,
	OI_ORDER_CURRENCY,
	OI_ORDER_ACCOUNT,
	OI_ORDER_MONEY_STATUS,
	OI_ORDER_PAYLOAD,
	OI_ORDER_HISTORY,
	OI_ORDER_COUNT
};

/* a row of it; the pointers go into the tuple that it was read from */
typedef struct OiOrder
{
	text	   *key;
	text	   *state;
	int			version;
	int64		amount;
	TimestampTz created_at;
	TimestampTz changed_at;
	bool		tombstone;
	text	   *currency;		/* NULL in a tombstone */
	text	   *account;		/* or NULL */
	OiMoney		money;			/* unknown: imported, go by the state */
	Datum		payload;		/* 0: null; may be toasted */
	Datum		history;
} OiOrder;

typedef enum OiOutcome
{
	OI_CREATED,
	OI_APPLIED,
	OI_CANCELLED,
	OI_TOMBSTONED,
	OI_REPLAYED,
	OI_IGNORED,
	OI_MISMATCH,
	OI_IN_PROGRESS,
	OI_ILLEGAL,
	OI_MISSING,
	OI_REFUSED
} OiOutcome;

typedef enum OiVerb
{
	OI_VERB_CREATE,
	OI_VERB_TRANSITION,
	OI_VERB_CANCEL
} OiVerb;

/* a call's arguments, checked; what the verb has none of is NULL */
typedef struct OiOrderCall
{
	OiVerb		verb;
	text	   *key;
	int64		amount;
	text	   *currency;
	text	   *account;
	Jsonb	   *payload;
	Interval   *pay_within;
	text	   *to_state;
	text	   *request_key;
	text	   *reason;
	Jsonb	   *headers;
	bool		tombstone;		/* leave one if the order is missing */
	bool		report;			/* outcomes instead of errors */
} OiOrderCall;

/* the answer */
typedef struct OiOrderAnswer
{
	OiOutcome	outcome;
	text	   *state;			/* NULL: that and the next two are not known */
	int			version;
	TimestampTz changed_at;
	pg_uuid_t	event_id;
	bool		has_event;
	char	   *detail;			/* or NULL */
	char	   *hint;			/* or NULL */
} OiOrderAnswer;

/* order.c */
extern const char *oi_outcome_name(OiOutcome outcome);
extern void oi_order_work(const OiOrderCall *call, OiOrderAnswer *answer);
extern void oi_order_report(const OiOrderCall *call,
							const OiOrderAnswer *answer);

/* order_row.c */
extern void oi_order_read(const Datum *values, const bool *nulls,
						  OiOrder *order);
extern void oi_order_read_slot(TupleTableSlot *slot, OiOrder *order);
extern OiMoney oi_order_money(const OiOrder *order);
extern char *oi_order_allowed(const OiOrder *order);
extern List *oi_order_targets(const OiOrder *order);
extern Oid	oi_order_step_type(TupleDesc desc);
extern bool oi_text_equal(const text *a, const text *b);

/* effect.c */
typedef struct OiChange
{
	const OiOrderCall *call;	/* NULL: direct SQL */
	const OiTransition *transition;
	const text *from_state;		/* NULL: the order begins */
	const OiStep *step;
} OiChange;

extern void oi_effects(const OiOrder *order, const OiChange *change);

/* guard.c */

/* instead of a version: the order is about to be removed */
#define OI_GUARD_REMOVAL 0

extern void oi_guard_init(void);
extern void oi_guard_expect(const OiOrderCall *call, int version);
extern bool oi_guard_done(pg_uuid_t *event_id);
extern void oi_guard_permit_truncate(Oid relid);
extern void oi_report_illegal(const OiOrder *order, const char *to_state);

#endif							/* OI_ORDER_H */
