/*-------------------------------------------------------------------------
 *
 * rules.h
 *		The lifecycle in force, loaded from its table and cached.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_RULES_H
#define OI_RULES_H

#include "lifecycle.h"

extern void oi_rules_init(void);
extern const OiLifecycle *oi_rules(void);

#endif							/* OI_RULES_H */
