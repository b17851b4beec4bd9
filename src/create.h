/*-------------------------------------------------------------------------
 *
 * create.h
 *		New rows of table orders.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OI_CREATE_H
#define OI_CREATE_H

#include "order.h"

/* create.c */
extern bool oi_create_try(const OiOrderCall *call, OiWait *wait,
						  OiOrderAnswer *answer);
extern bool oi_create_tombstone(OiTable *table, const OiOrderCall *call,
								OiOrderAnswer *answer);

/* order.c */
extern void oi_answer_from_order(const OiOrder *order, OiOutcome outcome,
								 OiOrderAnswer *answer);
extern void oi_answer_replayed(const OiOrder *order, const OiStep *step,
							   OiOrderAnswer *answer);

#endif							/* OI_CREATE_H */
