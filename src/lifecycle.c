/*-------------------------------------------------------------------------
 *
 * lifecycle.c
 *		The rules of a lifecycle: states, transitions, money.
 *
 * Pure: no table is read here.  rules.c loads the lifecycle in force.
 *
 * An order's money is in one of four places.  A hold takes it from none to
 * held, a capture from held to captured, a release from held to returned, a
 * refund from captured to returned; nothing else moves it.  A lifecycle is
 * accepted only if every state has one money status whichever path leads to
 * it, each effect starts from its own, and no final state is held.  Then no
 * path through it captures twice, gives back what was captured without a
 * refund, or ends with the funds still held.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lifecycle.h"

const OiTransition oi_default_transitions[] = {
	{NULL, "created", "order.created", OI_EFFECT_HOLD},
	{"created", "paid", "order.paid", OI_EFFECT_CAPTURE},
	{"paid", "completed", "order.completed", OI_EFFECT_NONE},
	{"created", "cancelled", "order.cancelled", OI_EFFECT_RELEASE},
};
const int	oi_default_ntransitions = lengthof(oi_default_transitions);

static const char *const money_names[] = {
	[OI_MONEY_NONE] = "none",
	[OI_MONEY_HELD] = "held",
	[OI_MONEY_CAPTURED] = "captured",
	[OI_MONEY_RETURNED] = "returned",
};

/* each effect's name, and what it makes of which status */
static const struct
{
	const char *name;
	OiMoney		from;
	OiMoney		to;
}			effects[] = {
	[OI_EFFECT_NONE] = {NULL, OI_MONEY_UNKNOWN, OI_MONEY_UNKNOWN},
	[OI_EFFECT_HOLD] = {"hold", OI_MONEY_NONE, OI_MONEY_HELD},
	[OI_EFFECT_CAPTURE] = {"capture", OI_MONEY_HELD, OI_MONEY_CAPTURED},
	[OI_EFFECT_RELEASE] = {"release", OI_MONEY_HELD, OI_MONEY_RETURNED},
	[OI_EFFECT_REFUND] = {"refund", OI_MONEY_CAPTURED, OI_MONEY_RETURNED},
};

/* OI_MONEY_UNKNOWN if there is no such status */
OiMoney
oi_money_parse(const char *word)
{
	for (int i = 0; i < (int) lengthof(money_names); i++)
		if (strcmp(money_names[i], word) == 0)
			return (OiMoney) i;
	return OI_MONEY_UNKNOWN;
}

/* The word for a status that is known. */
const char *
oi_money_name(OiMoney money)
{
	Assert(money > OI_MONEY_UNKNOWN);
	return money_names[money];
}

/* NULL is no effect; OI_EFFECT_UNKNOWN if there is none of that name. */
OiEffect
oi_effect_parse(const char *word)
{
	if (word == NULL)
		return OI_EFFECT_NONE;
	for (int i = OI_EFFECT_HOLD; i < (int) lengthof(effects); i++)
		if (strcmp(effects[i].name, word) == 0)
			return (OiEffect) i;
	return OI_EFFECT_UNKNOWN;
}

/* The word for an effect, NULL for none. */
const char *
oi_effect_name(OiEffect effect)
{
	Assert(effect > OI_EFFECT_UNKNOWN);
	return effects[effect].name;
}

/* Where the money is after an effect; unknown if it cannot start there. */
OiMoney
oi_money_after(OiMoney money, OiEffect effect)
{
	if (effect == OI_EFFECT_NONE)
		return money;
	return effects[effect].from == money ? effects[effect].to :
		OI_MONEY_UNKNOWN;
}

/* The state of a name, or NULL. */
static OiState *
find_state(const OiLifecycle *lifecycle, const char *name)
{
	for (int i = 0; i < lifecycle->nstates; i++)
		if (strcmp(lifecycle->states[i].name, name) == 0)
			return &lifecycle->states[i];
	return NULL;
}

/* Collects the states that the transitions name. */
static void
collect_states(OiLifecycle *lifecycle)
{
	lifecycle->states = palloc(sizeof(OiState) * 2 *
							   Max(lifecycle->ntransitions, 1));
	lifecycle->nstates = 0;
	for (int i = 0; i < lifecycle->ntransitions; i++)
	{
		const char *names[2] = {lifecycle->transitions[i].from,
		lifecycle->transitions[i].to};

		for (int j = 0; j < 2; j++)
		{
			if (names[j] == NULL || find_state(lifecycle, names[j]))
				continue;
			lifecycle->states[lifecycle->nstates].name = names[j];
			lifecycle->states[lifecycle->nstates].money = OI_MONEY_UNKNOWN;
			lifecycle->nstates++;
		}
	}
}

/* Refuses, with a detail that may be NULL.  Always returns false. */
static bool
refuse(OiLifecycleError *error, const char *message, char *detail)
{
	error->message = message;
	error->detail = detail;
	return false;
}

/* Is each transition well formed, and is there one initial state? */
static bool
check_transitions(const OiLifecycle *lifecycle, OiLifecycleError *error)
{
	int			initial = 0;

	for (int i = 0; i < lifecycle->ntransitions; i++)
	{
		const OiTransition *t = &lifecycle->transitions[i];

		if (t->effect == OI_EFFECT_UNKNOWN)
			return refuse(error, "lifecycle has an unknown ledger effect",
						  psprintf("The transition to \"%s\" has it. Effects are hold, capture, release and refund.", t->to));
		if (t->from == NULL)
			initial++;
		else if (strcmp(t->from, t->to) == 0)
			return refuse(error, "lifecycle has a transition from a state to itself",
						  psprintf("The state is \"%s\".", t->to));
	}
	if (initial == 0)
		return refuse(error, "lifecycle has no initial state",
					  pstrdup("One transition must have a null from_state."));
	if (initial > 1)
		return refuse(error, "lifecycle has more than one initial state",
					  pstrdup("Only one transition may have a null from_state."));
	return true;
}

/*
 * Carries the money status along one transition.  Sets *progress if a state
 * got its status by that.
 */
static bool
spread_money(const OiLifecycle *lifecycle, const OiTransition *t,
			 bool *progress, OiLifecycleError *error)
{
	OiMoney		before = t->from ? find_state(lifecycle, t->from)->money :
	OI_MONEY_NONE;
	OiMoney		after;
	OiState    *target = find_state(lifecycle, t->to);

	if (before == OI_MONEY_UNKNOWN)
		return true;			/* not reached so far */

	after = oi_money_after(before, t->effect);
	if (after == OI_MONEY_UNKNOWN)
		return refuse(error, "lifecycle has a ledger effect that its money status does not allow",
					  psprintf("A %s on the way to \"%s\" finds the money %s.",
							   oi_effect_name(t->effect), t->to,
							   oi_money_name(before)));
	if (target->money == OI_MONEY_UNKNOWN)
	{
		target->money = after;
		*progress = true;
	}
	else if (target->money != after)
		return refuse(error, "lifecycle has a state with two money statuses",
					  psprintf("In state \"%s\" the money would be %s by one path and %s by another.",
							   t->to, oi_money_name(target->money),
							   oi_money_name(after)));
	return true;
}

/* Is every state reached, and does no order end with its funds held? */
static bool
check_states(const OiLifecycle *lifecycle, OiLifecycleError *error)
{
	for (int i = 0; i < lifecycle->nstates; i++)
	{
		const OiState *state = &lifecycle->states[i];
		bool		final = true;

		if (state->money == OI_MONEY_UNKNOWN)
			return refuse(error, "lifecycle has an unreachable state",
						  psprintf("No path leads from the initial state to \"%s\".", state->name));
		for (int j = 0; j < lifecycle->ntransitions && final; j++)
			final = lifecycle->transitions[j].from == NULL ||
				strcmp(lifecycle->transitions[j].from, state->name) != 0;
		if (final && state->money == OI_MONEY_HELD)
			return refuse(error, "lifecycle has a final state in which money is held",
						  psprintf("The state is \"%s\".", state->name));
	}
	return true;
}

/*
 * Finds the states of a lifecycle whose transitions are given, and where the
 * money is in each.  Returns false, and says why, if it has to be refused.
 */
bool
oi_lifecycle_compile(OiLifecycle *lifecycle, OiLifecycleError *error)
{
	bool		progress = true;

	if (!check_transitions(lifecycle, error))
		return false;
	collect_states(lifecycle);
	while (progress)
	{
		progress = false;
		for (int i = 0; i < lifecycle->ntransitions; i++)
			if (!spread_money(lifecycle, &lifecycle->transitions[i],
							  &progress, error))
				return false;
	}
	return check_states(lifecycle, error);
}

/* The transition between two states, or NULL.  From NULL: to the initial. */
const OiTransition *
oi_lifecycle_find(const OiLifecycle *lifecycle, const char *from,
				  const char *to)
{
	for (int i = 0; i < lifecycle->ntransitions; i++)
	{
		const OiTransition *t = &lifecycle->transitions[i];

		if (from == NULL || t->from == NULL)
		{
			if (from == NULL && t->from == NULL)
				return t;
		}
		else if (strcmp(t->from, from) == 0 && strcmp(t->to, to) == 0)
			return t;
	}
	return NULL;
}

/* Where the money is in a state; unknown if the lifecycle has no such state. */
OiMoney
oi_lifecycle_money(const OiLifecycle *lifecycle, const char *state)
{
	OiState    *found = find_state(lifecycle, state);

	return found ? found->money : OI_MONEY_UNKNOWN;
}

/* Does a transition of the lifecycle write events of this type? */
bool
oi_lifecycle_has_event(const OiLifecycle *lifecycle, const char *event_type)
{
	for (int i = 0; i < lifecycle->ntransitions; i++)
		if (strcmp(lifecycle->transitions[i].event_type, event_type) == 0)
			return true;
	return false;
}
