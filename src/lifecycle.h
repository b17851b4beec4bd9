/*-------------------------------------------------------------------------
 *
 * lifecycle.h
 *		The rules of a lifecycle: states, transitions, money.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_LIFECYCLE_H
#define OI_LIFECYCLE_H

/* where an order's money is */
typedef enum OiMoney
{
	OI_MONEY_UNKNOWN = -1,
	OI_MONEY_NONE,
	OI_MONEY_HELD,
	OI_MONEY_CAPTURED,
	OI_MONEY_RETURNED
} OiMoney;

/* what a transition does to it */
typedef enum OiEffect
{
	OI_EFFECT_UNKNOWN = -1,
	OI_EFFECT_NONE,
	OI_EFFECT_HOLD,
	OI_EFFECT_CAPTURE,
	OI_EFFECT_RELEASE,
	OI_EFFECT_REFUND
} OiEffect;

typedef struct OiTransition
{
	const char *from;			/* NULL: this is how an order begins */
	const char *to;
	const char *event_type;
	OiEffect	effect;
} OiTransition;

typedef struct OiState
{
	const char *name;
	OiMoney		money;			/* the same whichever path leads here */
} OiState;

typedef struct OiLifecycle
{
	int			ntransitions;
	const OiTransition *transitions;
	int			nstates;
	OiState    *states;
} OiLifecycle;

/* why a lifecycle is refused */
typedef struct OiLifecycleError
{
	const char *message;
	char	   *detail;			/* or NULL */
} OiLifecycleError;

extern const OiTransition oi_default_transitions[];
extern const int oi_default_ntransitions;

extern OiMoney oi_money_parse(const char *word);
extern const char *oi_money_name(OiMoney money);
extern OiEffect oi_effect_parse(const char *word);
extern const char *oi_effect_name(OiEffect effect);
extern OiMoney oi_money_after(OiMoney money, OiEffect effect);

extern bool oi_lifecycle_compile(OiLifecycle *lifecycle,
								 OiLifecycleError *error);
extern const OiTransition *oi_lifecycle_find(const OiLifecycle *lifecycle,
											 const char *from, const char *to);
extern OiMoney oi_lifecycle_money(const OiLifecycle *lifecycle,
								  const char *state);
extern bool oi_lifecycle_has_event(const OiLifecycle *lifecycle,
								   const char *event_type);

#endif							/* OI_LIFECYCLE_H */
