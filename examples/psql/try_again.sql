-- After :transition_order (..., 'report') \gset in a transaction that has other work to
-- commit, whatever came of it.  What is for good is an outcome.  The order in another
-- transaction's hands is not: to commit that would be to forget the change.
SELECT :'outcome' = 'in_progress' AS in_progress \gset
\if :in_progress
DO $$ BEGIN RAISE 'the order is in progress' USING ERRCODE = 'OI002'; END $$;
\endif
