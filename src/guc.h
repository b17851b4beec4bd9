/*-------------------------------------------------------------------------
 *
 * guc.h
 *		Settings, order_idempotency.*.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_GUC_H
#define OI_GUC_H

extern char *oi_environment;	/* where this server is; may be empty */
extern char *oi_headers;		/* JSON object of strings, or empty */
extern int	oi_in_flight_wait;	/* ms; 0: not at all; -1: for ever */
extern int	oi_key_retention;	/* s */
extern int	oi_max_payload;		/* bytes */
extern int	oi_max_subscriptions;
extern int	oi_pay_within;		/* s; 0: never */
extern int	oi_poll_interval;	/* ms */
extern bool oi_publish;

extern void oi_guc_init(void);

#endif							/* OI_GUC_H */
