/*-------------------------------------------------------------------------
 *
 * guc.h
 *		Settings, order_idempotency.*.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_GUC_H
#define OI_GUC_H

/* on_full: what becomes of a log that is larger than max_retained */
typedef enum OiOnFull
{
	OI_ON_FULL_REFUSE,			/* no more events are written */
	OI_ON_FULL_INVALIDATE		/* who holds it loses what he has not
								 * delivered */
} OiOnFull;

/* hot_keys: how retried keys are kept and shown */
typedef enum OiHotKeys
{
	OI_HOT_KEYS_OFF,			/* not at all */
	OI_HOT_KEYS_HASH,			/* half of their SHA-256 */
	OI_HOT_KEYS_PLAIN
} OiHotKeys;

extern char *oi_environment;	/* where this server is; may be empty */
extern char *oi_headers;		/* JSON object of strings, or empty */
extern int	oi_hot_keys;		/* OiHotKeys */
extern int	oi_in_flight_wait;	/* ms; 0: not at all; -1: for ever */
extern int	oi_key_retention;	/* s */
extern int	oi_log_duplicates;	/* lines a second; 0: none */
extern int	oi_max_payload;		/* bytes */
extern int	oi_max_retained;	/* kB; 0: no limit */
extern int	oi_max_subscriptions;
extern int	oi_on_full;			/* OiOnFull */
extern int	oi_outbox_retention;	/* s */
extern int	oi_pay_within;		/* s; 0: never */
extern int	oi_poll_interval;	/* ms */
extern bool oi_publish;

extern void oi_guc_init(void);

#endif							/* OI_GUC_H */
