# A database that the extension is at work in: orders in every state, claims of
# every kind, a lifecycle of its own, roles, subscriptions with a backlog.  And what
# must hold of it when the server, the extension or both were upgraded: what was
# done is known, and what was begun goes on.

package OrderIdempotency::Usage;

use strict;
use warnings;

use OrderIdempotency::Drain;
use OrderIdempotency::Node;
use OrderIdempotency::Sessions;
use PostgreSQL::Test::Utils;
use Test::More;

my $api = 'order_idempotency';

# What an application called: the call, its outcome, and its outcome when it is
# called again.
my @calls = (
	[ "create_order('made', 100, 'EUR')", 'created', 'replayed' ],
	[   "create_order('sold', 250, 'EUR', 'alice', '{\"lines\": [1, 2.50]}',"
		  . " headers => '{\"traceparent\": \"00-1\"}')",
		'created', 'replayed' ],
	[ "create_order('due', 5, 'JPY', pay_within => '1 hour')", 'created', 'replayed' ],
	[ "create_order('paid', 100, 'EUR', 'bob')", 'created', 'replayed' ],
	[ "transition_order('paid', 'paid', 'charge-1')", 'applied', 'replayed' ],
	[ "create_order('done', 100, 'EUR', 'bob')", 'created', 'replayed' ],
	[ "transition_order('done', 'paid')", 'applied', 'replayed' ],
	[ "transition_order('done', 'completed', payload => '[1]')", 'applied', 'replayed' ],
	[ "create_order('cancelled', 7, 'EUR', 'carol')", 'created', 'replayed' ],
	[ "cancel_order('cancelled', 'changed her mind')", 'cancelled', 'replayed' ],
	[ "create_order('refunded', 9, 'EUR', 'carol')", 'created', 'replayed' ],
	[ "transition_order('refunded', 'paid')", 'applied', 'replayed' ],
	[ "cancel_order('refunded', request_key => 'refund-1')", 'cancelled', 'replayed' ],
	[ "cancel_order('ghost', if_missing => 'tombstone')", 'tombstoned', 'replayed' ],
	[ "create_order('ghost', 1, 'EUR', on_conflict => 'report')", 'refused', 'refused' ],
	[ "create_order('made', 101, 'EUR', on_conflict => 'report')", 'mismatch', 'mismatch' ],
	[ "transition_order('made', 'completed', on_conflict => 'report')", 'illegal', 'illegal' ],
	[ "claim_key('plain', '{\"a\": 1}')", 'claimed', 'replayed' ],
	[ "claim_key('plain', '{\"a\": 2}')", 'mismatch', 'mismatch' ],
	[ "claim_key('delivery', scope => 'webhooks')", 'claimed', 'replayed' ],
	[ "claim_key('0192f0c1-77d1-7c3a-8a3e-c91d54b07f26')", 'claimed', 'replayed' ],
	[ "claim_key('held', '1', lease => '1 day')", 'claimed', 'in_progress' ],
	[ "claim_key('finished', '1', lease => '1 day')", 'claimed', 'replayed' ]);

# how often go_on() can be called
my $rounds = 8;

# The answer to each call, as "outcome|what stays".
sub _answers
{
	my ($self) = @_;
	my $sql = "SET SESSION AUTHORIZATION app;\n";

	foreach my $call (@calls)
	{
		my $stays = $call->[0] =~ /^claim/ ? 'attempt, claimed_at' : 'event_id';

		$sql .= "SELECT outcome, $stays FROM $api.$call->[0];\n";
	}
	return split /\n/, $self->{node}->safe_psql($self->{db}, $sql);
}

# Fills a new database with the extension in it, of a server that new_drain_node()
# made, which keeps its settings.  Publishing is off afterwards: subscriptions
# "audit" and "slow" have a backlog, "slow" in the middle of a batch.  Option:
# two_phase, leave transaction "late" prepared, whose event is older than
# delivered ones.
sub new
{
	my ($class, $node, %opt) = @_;
	my $self = bless { node => $node, db => $opt{db} // 'postgres', round => 0 }, $class;

	$self->_make_roles;
	$node->safe_psql($self->{db}, <<~"SQL");
		SELECT $api.copy_default_lifecycle();
		INSERT INTO $api.lifecycle VALUES ('paid', 'cancelled', 'order.refunded', 'refund');
		SQL
	my @got = $self->_answers;
	is(join("\n", map { s/\|.*//r } @got), join("\n", map { $_->[1] } @calls), 'the database is filled');
	$self->{answers} = [ map { s/^[^|]*//r } @got ];
	$self->_stock_up;
	$self->_subscribe($opt{two_phase});
	$self->_leave_backlog;
	$self->_list_columns;
	return $self;
}

# An application, a monitor, an operator.
sub _make_roles
{
	my ($self) = @_;

	$self->{node}->safe_psql($self->{db}, <<~'SQL');
		CREATE ROLE app LOGIN;
		CREATE ROLE monitor LOGIN;
		CREATE ROLE operator LOGIN;
		GRANT USAGE ON FOREIGN SERVER files TO operator;
		SQL
	$self->grant;
	return;
}

# Calls grant_* for the roles.
sub grant
{
	my ($self, $db) = @_;

	$self->{node}->safe_psql($db // $self->{db}, <<~"SQL");
		SELECT $api.grant_application('app'), $api.grant_monitor('monitor'), $api.grant_operator('operator');
		SQL
	return;
}

# Completes claims, and has something ready for each round of go_on().
sub _stock_up
{
	my ($self) = @_;
	my $sql = <<~"SQL";
		SET SESSION AUTHORIZATION app;
		SELECT $api.complete_key('finished', '"it went well"', attempt => 1);
		BEGIN;
		SELECT $api.claim_key('answered', '1');
		SELECT $api.complete_key('answered', '{"id": 17}');
		COMMIT;
		SQL

	foreach my $n (1 .. $rounds)
	{
		$sql .= <<~"SQL";
			SELECT $api.create_order('open-$n', 3, 'EUR', 'dave', pay_within => '1 hour');
			SELECT $api.create_order('payed-$n', 4, 'EUR', 'dave');
			SELECT $api.transition_order('payed-$n', 'paid');
			SELECT $api.claim_key('leased-$n', '1', lease => '1 day');
			SELECT $api.claim_key('over-$n', '1', lease => '1 ms');
			SELECT $api.claim_key('released-$n', '1', lease => '1 day');
			SELECT $api.release_key('released-$n', attempt => 1);
			SQL
	}
	$self->{node}->safe_psql($self->{db}, $sql);
	$self->{node}->poll_query_until($self->{db},
		"SELECT count(*) = $rounds FROM $api.abandoned_claims WHERE key LIKE 'over-%'")
	  or die 'the leases are not over';
	return;
}

# Subscriptions, one of them an operator's, which have delivered what is there by
# now; and an event that commits late.
sub _subscribe
{
	my ($self, $two_phase) = @_;
	my ($node, $db) = @$self{ 'node', 'db' };
	my $session = OrderIdempotency::Sessions->new($node, 1, db => $db);

	$session->run(0, "BEGIN;\n" . emit('late'));
	$session->run(0, "PREPARE TRANSACTION 'late'") if $two_phase;
	$node->safe_psql($db, <<~"SQL");
		SET SESSION AUTHORIZATION operator;
		SELECT $api.create_subscription('audit', 'files', options => '{"from": "start"}');
		SQL
	wait_for_worker($node, 'audit', $db);
	subscribe($node, 'slow', db => $db, event_types => "'{test.slow}'",
		options => q('{"batch_size": 1}'));
	drained($node, 'audit', $db);
	$session->run(0, 'COMMIT') if !$two_phase;
	$session->quit;
	return;
}

# Stops the workers when they have delivered a part of many events.
sub _leave_backlog
{
	my ($self) = @_;
	my ($node, $db) = @$self{ 'node', 'db' };

	$node->safe_psql($db, <<~"SQL");
		SELECT count($api.emit_event('test.slow', 'slow-' || n % 7, pg_catalog.jsonb_build_object('n', n)))
		FROM generate_series(1, 3000) n
		SQL
	$node->poll_query_until($db,
		"SELECT delivered > 3 FROM $api.subscription_status WHERE name = 'slow'") or die;
	$self->publish('off');
	$node->safe_psql($db, <<~"SQL");
		SET SESSION AUTHORIZATION app;
		SELECT count(*) FROM generate_series(1, 700) n,
			LATERAL $api.create_order('many-' || n, n, 'EUR', 'erin');
		SQL
	cmp_ok($self->lag('slow'), '>', 0, 'a batch is in progress');
	cmp_ok($self->lag('audit'), '>=', 700, 'and there is a backlog');
	return;
}

# How many events a subscription has before it.
sub lag
{
	my ($self, $name) = @_;

	return $self->{node}->safe_psql($self->{db},
		"SELECT lag_events FROM $api.subscription_status WHERE name = '$name'");
}

# Lets the workers deliver, or stops them and waits until they do not.
sub publish
{
	my ($self, $value) = @_;
	my ($node, $db) = @$self{ 'node', 'db' };

	$node->append_conf('postgresql.conf', "order_idempotency.publish = $value");
	$node->reload;
	return if $value eq 'on';
	$node->poll_query_until($db,
		"SELECT count(*) = 0 FROM $api.subscription_status WHERE state <> 'off'")
	  or die 'the workers do not stop';
	return;
}

# Waits until workers have begun to deliver what publish('on') let loose.
sub under_way
{
	my ($self) = @_;

	$self->{node}->poll_query_until($self->{db},
		"SELECT bool_and(state IN ('idle', 'delivering')) FROM $api.subscription_status")
	  or die 'the workers do not begin';
	return;
}

# Notes which columns the tables have, those of a dump.
sub _list_columns
{
	my ($self) = @_;

	$self->{columns} = $self->{node}->safe_psql($self->{db}, <<~'SQL');
		SELECT string_agg(format(
			'SELECT %L, count(*), md5(string_agg(t::text, chr(10) ORDER BY t::text)) FROM (SELECT %s FROM %s) t;',
			c.oid::regclass, columns, c.oid::regclass), chr(10))
		FROM pg_extension e, unnest(e.extconfig) r, pg_class c, LATERAL
			(SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) AS columns
			 FROM pg_attribute a
			 WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) l
		WHERE e.extname = 'order_idempotency' AND c.oid = r
		SQL
	return;
}

# What is in the tables: a line for each, of the columns that it had when the
# database was filled.
sub data
{
	my ($self) = @_;

	return $self->{node}->safe_psql($self->{db}, $self->{columns});
}

# Checks that every call that was made gets the answer that it got.
sub replays
{
	my ($self, $what) = @_;
	my @expected = map { $calls[$_][2] . $self->{answers}[$_] } 0 .. $#calls;

	is(join("\n", $self->_answers), join("\n", @expected), "$what: all calls are known");
	is( $self->{node}->safe_psql($self->{db}, <<~"SQL"), <<~'ANSWER' =~ s/\n\z//r, "$what: with their answers");
		SELECT outcome, response FROM $api.claim_key('finished', '1', lease => '1 day');
		SELECT outcome, response FROM $api.claim_key('answered', '1');
		SQL
		replayed|"it went well"
		replayed|{"id": 17}
		ANSWER
	return;
}

# Checks that what was begun goes on, and that new things can be begun.  What
# needs the extension's functions alone can be done by any session.
sub go_on
{
	my ($self, $what) = @_;
	my $n = ++$self->{round};
	my @expected = (
		"transition_order('open-$n', 'paid', 'charge-$n')" => 'applied',
		"transition_order('open-$n', 'completed')" => 'applied',
		"transition_order('open-$n', 'cancelled', on_conflict => 'report')" => 'illegal',
		"cancel_order('payed-$n', 'broken')" => 'cancelled',
		"create_order('new-$n', 12, 'EUR', 'frank', pay_within => '1 hour')" => 'created',
		"create_order('new-$n', 12, 'EUR', 'frank', pay_within => '1 hour')" => 'replayed',
		"transition_order('new-$n', 'paid')" => 'applied',
		"claim_key('new-$n')" => 'claimed',
		"claim_key('new-$n')" => 'replayed',
		"claim_key('leased-$n', '1', lease => '1 day')" => 'in_progress',
		"extend_key('leased-$n', '2 days', 'default', 1)" => 'extended',
		"complete_key('leased-$n', attempt => 1)" => 'completed',
		"claim_key('leased-$n', '1', lease => '1 day')" => 'replayed',
		"claim_key('over-$n', '1', lease => '1 day')" => 'claimed',
		"complete_key('over-$n', attempt => 1)" => 'stale',
		"complete_key('over-$n', attempt => 2)" => 'completed',
		"claim_key('released-$n', '1', lease => '1 day')" => 'claimed',
		"complete_key('released-$n', attempt => 1)" => 'stale');
	my ($sql, $outcomes) = ("SET SESSION AUTHORIZATION app;\n", '');

	die 'no more rounds' if $n > $rounds;
	while (my ($call, $outcome) = splice @expected, 0, 2)
	{
		my $column = $call =~ /^(?:complete|extend)/ ? '*' : 'outcome';

		$sql .= "SELECT $column FROM $api.$call;\n";
		$outcomes .= "$outcome\n";
	}
	$sql .= "SELECT event_id IS NOT NULL FROM $api.emit_event('test.event', 'new-$n') event_id";
	is($self->{node}->safe_psql($self->{db}, $sql), $outcomes . 't', "$what: work goes on");
	consistent($self->{node}, $what, $self->{db});
	return;
}

# Checks what a monitor and an operator were granted.  Option: no_subscriptions,
# leave out making and dropping one.
sub roles_work
{
	my ($self, $what, %opt) = @_;
	my $views = join ', ', map { "(SELECT count(*) >= 0 FROM $api.$_)" }
	  qw(abandoned_claims account_balance current_lifecycle subscription_status);
	my $tables = join ', ', map { "(SELECT count(*) >= 0 FROM $api.$_)" }
	  qw(orders ledger outbox claims lifecycle generations payment_deadlines subscriptions
	  subscription_cursors);

	is( $self->{node}->safe_psql($self->{db}, <<~"SQL"), <<~'ANSWER' =~ s/\n\z//r,
		SET SESSION AUTHORIZATION monitor;
		SELECT $views;
		RESET SESSION AUTHORIZATION;
		SET SESSION AUTHORIZATION operator;
		SELECT $views;
		SELECT $tables;
		SELECT state FROM $api.get_order('done');
		SELECT state FROM $api.order_history('done') ORDER BY version;
		SQL
		t|t|t|t
		t|t|t|t
		t|t|t|t|t|t|t|t|t
		completed
		created
		paid
		completed
		ANSWER
		"$what: monitor and operator see what they could");
	is( $self->{node}->safe_psql($self->{db}, <<~'SQL'), '0', "$what: and would in a dump: no grant to them is the extension's");
		SELECT count(*) FROM pg_init_privs i, aclexplode(i.initprivs) a
		WHERE a.grantee IN ('monitor'::regrole, 'operator'::regrole)
		SQL
	return if $opt{no_subscriptions};
	is( $self->{node}->safe_psql($self->{db}, <<~"SQL"), "f\nf", "$what: an operator makes and drops");
		SET SESSION AUTHORIZATION operator;
		SELECT $api.create_subscription('extra', 'files') IS NULL;
		SELECT $api.drop_subscription('extra') IS NULL;
		SQL
	return;
}

# Checks that the workers deliver what is left, each event once and in order.
sub drains
{
	my ($self, $what) = @_;
	my ($node, $db) = @$self{ 'node', 'db' };

	drained($node, $_, $db) foreach 'audit', 'slow';
	all_once($node, 'audit.jsonl', $what, $db);
	in_key_order($node, 'audit.jsonl', $what);
	in_key_order($node, 'slow.jsonl', "$what, slow");
	is(scalar(read_events($node, 'slow.jsonl')), 3000, "$what: nothing lost or repeated in the batch");
	return;
}

1;
