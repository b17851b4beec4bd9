# Promises 2, 3 and 9 for payment deadlines beside users' triggers: one order that
# cannot be cancelled does not hold up another; triggers fire as they would for
# cancel_order, deferred ones included; none of them gets the superuser's rights,
# and none of them leaves settings behind.
#
# Bugs that this catches: a batch that is tried again as it is; one by one for
# ever; a failure without a word, or with too many; triggers that run as the
# superuser, or can become it again; a security-restricted operation, in which
# deferred triggers fail; a trigger that takes for ever, or waits for ever; a
# search_path that a trigger set, in force for our own queries.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use OrderIdempotency::Node;
use OrderIdempotency::Sessions;
use OrderIdempotency::Upkeep;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('triggers');
my $api = 'order_idempotency';

# An owner of the extension who is no superuser.
$node->safe_psql('postgres', <<~"SQL");
	DROP EXTENSION order_idempotency;
	CREATE ROLE shop LOGIN;
	CREATE ROLE stranger;
	CREATE ROLE snoop SUPERUSER;
	GRANT CREATE ON DATABASE postgres TO shop;
	GRANT shop TO stranger;
	CREATE EXTENSION order_idempotency;
	DO \$\$
	DECLARE
		r record;
	BEGIN
		FOR r IN SELECT relname, relkind FROM pg_class
			WHERE relnamespace = '$api'::regnamespace AND relkind IN ('r', 'v')
		LOOP
			EXECUTE format('ALTER TABLE $api.%I OWNER TO shop', r.relname);
		END LOOP;
	END
	\$\$;
	GRANT USAGE ON SCHEMA $api TO shop;
	GRANT USAGE ON SEQUENCE $api.outbox_position TO shop;
	CREATE TABLE public.seen (key text, who name, by name, deferred boolean, path text, setting text);
	GRANT INSERT, SELECT ON public.seen TO shop;
	SQL

# How many orders of a prefix there are, all due at once.
sub create_due
{
	my ($prefix, $n, $within) = @_;

	$within //= '1 s';
	$node->safe_psql('postgres', <<~"SQL");
		BEGIN;
		SELECT count(*) FROM (SELECT $api.create_order('$prefix' || i, 100, 'EUR', 'alice', pay_within => '$within')
							  FROM generate_series(1, $n) i) x;
		COMMIT;
		SQL
	return;
}

# Waits until all of a prefix but some are cancelled.
sub cancelled_but
{
	my ($prefix, $left, $what) = @_;

	ok( $node->poll_query_until('postgres',
			"SELECT count(*) = $left FROM $api.orders WHERE starts_with(key, '$prefix') AND state <> 'cancelled'"),
		$what);
	return;
}

# A trigger on orders; WHEN it fires, what it does, and the kind of trigger.
sub trigger
{
	my ($name, $when, $body, $kind) = @_;

	$kind //= 'TRIGGER';
	my $deferred = $kind eq 'TRIGGER' ? '' : 'DEFERRABLE INITIALLY DEFERRED';
	$node->safe_psql('postgres', <<~"SQL");
		CREATE OR REPLACE FUNCTION public.$name() RETURNS trigger LANGUAGE plpgsql AS \$\$
		BEGIN
			$body
			RETURN NULL;
		END
		\$\$;
		CREATE $kind $name AFTER UPDATE ON $api.orders $deferred
		FOR EACH ROW WHEN ($when) EXECUTE FUNCTION public.$name();
		SQL
	return;
}

sub drop_trigger
{
	my ($name) = @_;

	$node->safe_psql('postgres', "DROP TRIGGER $name ON $api.orders");
	return;
}

# One of many, in the middle of a batch.
my $log = -s $node->logfile;
trigger('poison', "new.key = 'a400'", "RAISE EXCEPTION 'no way' USING ERRCODE = 'ZZ001', DETAIL = 'a detail';");
create_due('a', 1000);
cancelled_but('a', 1, 'all but the one that fails are cancelled');
$node->poll_query_until('postgres', "SELECT failures > 1 FROM $api.deadline_failures") or die;
sql_is($node, "SELECT order_key, sqlstate, message FROM $api.deadline_failures", 'a400|ZZ001|no way', 'it is in deadline_failures');
$node->wait_for_log(
	qr/WARNING:.*could not cancel order "a400" at its payment deadline: no way\n.*DETAIL:  a detail\n.*HINT:.*deadline_failures.*\n.*CONTEXT:  PL\/pgSQL function public.poison/, $log);
pass('and in the log');
my $failures = $node->safe_psql('postgres', "SELECT failures FROM $api.deadline_failures");
my @warnings = slurp_file($node->logfile, $log) =~ /could not cancel/g;
ok(abs(@warnings - $failures) <= 1, "once for each failure: $failures failures, " . @warnings . ' warnings');
sql_is($node, "SELECT due_at > failed_at AND due_at <= failed_at + interval '1 s' * 2 ^ (failures - 1) + interval '1 s' FROM $api.payment_deadlines JOIN $api.deadline_failures USING (order_key)",
	't', 'it is put off for longer and longer');
drop_trigger('poison');
deadlines_are_over($node, 'when it can be cancelled');
cancelled_but('a', 0, 'it is');
$node->poll_query_until('postgres', "SELECT count(*) = 0 FROM $api.deadline_failures") or die;
pass('and the failure is forgotten');

# Every other one; then a deferred trigger, which says which only at the end.
trigger('half', "new.key ~ '^b.*[02468]\$'", "RAISE EXCEPTION 'even';");
create_due('b', 200);
cancelled_but('b', 100, 'every other one fails: the others are cancelled');
drop_trigger('half');
trigger('later', "new.key IN ('c77', 'c78', 'c600')", "RAISE EXCEPTION 'deferred';", 'CONSTRAINT TRIGGER');
create_due('c', 1000);
cancelled_but('c', 3, 'a deferred trigger fails for three: the others are cancelled');
$node->poll_query_until('postgres', "SELECT count(*) = 3 FROM $api.deadline_failures WHERE message = 'deferred'") or die;
pass('the three are known by name');
drop_trigger('later');
cancelled_but('c', 0, 'they are cancelled when they can be');
cancelled_but('b', 0, 'and so is every other one');

# A trigger that drops the change, and one that takes for ever, in three ways.
$node->safe_psql('postgres', <<~"SQL");
	CREATE FUNCTION public.swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
	CREATE TRIGGER swallow BEFORE UPDATE ON $api.orders FOR EACH ROW WHEN (old.key = 'd50') EXECUTE FUNCTION public.swallow();
	CREATE TABLE public.counter (n int);
	INSERT INTO public.counter VALUES (0);
	GRANT ALL ON public.counter TO shop;
	SQL
trigger('sleeps', "new.key = 'd60'", 'PERFORM pg_sleep(1000);');
trigger('spins', "new.key = 'd70'", 'LOOP END LOOP;');
trigger('waits', "new.key = 'd80'", 'UPDATE public.counter SET n = n + 1;');
trigger('sleeps_later', "new.key = 'd90'", 'PERFORM pg_sleep(1000);', 'CONSTRAINT TRIGGER');
my $pool = OrderIdempotency::Sessions->new($node, 1);
$pool->run(0, 'BEGIN; UPDATE public.counter SET n = n + 1;');
create_due('d', 100);
cancelled_but('d', 5, 'triggers that drop a change or never end: the others are cancelled');
$node->poll_query_until('postgres', "SELECT count(*) = 5 FROM $api.deadline_failures") or die;
sql_is($node, "SELECT string_agg(order_key || ' ' || sqlstate, ', ' ORDER BY order_key) FROM $api.deadline_failures",
	'd50 09000, d60 57014, d70 57014, d80 55P03, d90 57014', 'each is ended');
$pool->run(0, 'COMMIT;');
drop_trigger($_) foreach qw(swallow sleeps spins sleeps_later);
cancelled_but('d', 0, 'they are cancelled when they can be');
sql_is($node, 'SELECT n FROM public.counter', '2', 'with what their triggers do');
drop_trigger('waits');
$pool->quit;

# As whom a trigger runs, and what it can do.
trigger('tell', "new.key ~ '^e'", <<~'BODY');
	INSERT INTO public.seen VALUES (new.key, current_user, session_user, false, current_setting('search_path'), current_setting('order_idempotency.headers'));
	BODY
trigger('tell_later', "new.key ~ '^e'", <<~'BODY', 'CONSTRAINT TRIGGER');
	INSERT INTO public.seen VALUES (new.key, current_user, session_user, true, current_setting('search_path'), current_setting('order_idempotency.headers'));
	BODY
create_due('e', 1, '1 ms');
cancelled_but('e', 0, 'triggers that look around');
sql_is($node, 'SELECT who, deferred, path FROM public.seen ORDER BY deferred', "shop|f|pg_catalog, pg_temp\nshop|t|pg_catalog, pg_temp",
	'they run as the owner of the tables, with a safe path');
drop_trigger('tell');
drop_trigger('tell_later');

my %escapes = (
	role => 'SET ROLE snoop;',
	reset_role => 'RESET ROLE;',
	none => 'SET LOCAL ROLE none;',
	session => 'SET SESSION AUTHORIZATION snoop;',
	default => 'RESET SESSION AUTHORIZATION;',
	config => q(PERFORM set_config('role', 'snoop', false);),
	own => 'ALTER ROLE shop SUPERUSER;',
	read => q(PERFORM pg_read_file('PG_VERSION');),
);
foreach my $how (sort keys %escapes)
{
	foreach my $kind ('TRIGGER', 'CONSTRAINT TRIGGER')
	{
		my $key = "f-$how-" . length $kind;

		trigger('escape', "new.key = '$key'", $escapes{$how}, $kind);
		create_due($key, 0);
		$node->safe_psql('postgres', "SELECT $api.create_order('$key', 1, 'EUR', pay_within => '1 ms')");
		$node->poll_query_until('postgres', "SELECT count(*) = 1 FROM $api.deadline_failures WHERE order_key = '$key'") or die;
		sql_is($node, "SELECT sqlstate FROM $api.deadline_failures WHERE order_key = '$key'",
			'42501', "no way to more rights: $escapes{$how} ($kind)");
		drop_trigger('escape');
	}
}
cancelled_but('f', 0, 'without that they are cancelled');

# What a trigger sets is gone after it, for its own session and transaction alike.
$node->safe_psql('postgres', <<~"SQL");
	CREATE SCHEMA trap AUTHORIZATION shop;
	SET ROLE shop;
	CREATE FUNCTION trap.eq(text, text) RETURNS boolean LANGUAGE plpgsql
		AS 'BEGIN INSERT INTO public.seen VALUES (''trap'', current_user); RETURN true; END';
	CREATE OPERATOR trap.= (leftarg = text, rightarg = text, function = trap.eq);
	SQL
foreach my $kind ('TRIGGER', 'CONSTRAINT TRIGGER')
{
	trigger('sets', "new.key ~ '^g'", <<~'BODY', $kind);
		SET search_path = trap, pg_catalog;
		SET statement_timeout = 1;
		SET lock_timeout = 1;
		SET default_transaction_read_only = on;
		SET default_transaction_isolation = 'serializable';
		SET order_idempotency.headers = '{"a": "b"}';
		SET LOCAL synchronous_commit = off;
		SET CONSTRAINTS ALL DEFERRED;
		BODY
	$node->safe_psql('postgres', 'TRUNCATE public.seen');
	create_due('g' . length($kind) . '-', 3, '1 ms');
	cancelled_but('g', 0, "triggers that set things ($kind)");
	drop_trigger('sets');
	trigger('tell', "new.key ~ '^h'", <<~'BODY');
		INSERT INTO public.seen VALUES (new.key, current_user, session_user, false, current_setting('search_path'), current_setting('order_idempotency.headers'));
		BODY
	create_due('h' . length $kind, 1, '1 ms');
	cancelled_but('h', 0, 'the next one');
	sql_is($node, "SELECT who, path, setting FROM public.seen WHERE key ~ '^h'", 'shop|pg_catalog, pg_temp|', 'finds nothing of it');
	sql_is($node, "SELECT count(*) FROM public.seen WHERE key = 'trap'", '0', 'and no query of ours ran into a trap');
	drop_trigger('tell');
}

consistent($node, 'after all triggers');
unlike(slurp_file($node->logfile), qr/TRAP|PANIC|terminated by signal/, 'nothing crashed');
done_testing();
