# Promise 6: one key that fails holds back only itself.  One event among a thousand
# orders that fails delays none of the others; one that makes the sink hang delays them
# for no longer than a second when it is tried again, two the next time, and so on, not for
# the whole time that a delivery has.
#
# Bugs that this catches, planted and seen to fail: attempts at what failed before that have
# as much time as all else.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use OrderIdempotency::Drain;
use OrderIdempotency::Faulty;
use OrderIdempotency::Node;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $api = 'order_idempotency';
my $node = new_faulty_node('poison');

# Waits until a subscription has delivered so many, and returns how long that took.
sub seconds_until
{
	my ($name, $count) = @_;
	my $began = time;

	wait_for_sql($node, "SELECT delivered >= $count FROM $api.subscription_status WHERE name = '$name'", "$name: $count delivered");
	return time - $began;
}

# Writes an event of a thousand orders; what is to be done with one of them.
sub thousand
{
	my ($name, $do) = @_;

	$node->safe_psql('postgres',
		join '', 'BEGIN;', (map { order_events($name, [ "o-$_", $_ == 500 ? $do : '' ]) } 1 .. 1000), 'COMMIT;');
	return;
}

subscribe_faulty($node, 'good');
subscribe_faulty($node, 'bad', '{"backoff_min": 3600000}');
thousand('good', '');
my $good = seconds_until('good', 1000);
thousand('bad', 'retry hang hang');
my $bad = seconds_until('bad', 999);
note(sprintf 'a thousand orders: %.2f s; 999 beside one that fails: %.2f s', $good, $bad);
cmp_ok($bad, '<', 3 * $good + 3, 'one that fails delays none of the others');

# It is tried again, twice, and hangs each time.
my $delivered = 999;
foreach my $attempt (2, 3)
{
	set_ahead($node, ($attempt - 1) * 3 * 3600);
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
	while ((grep { $_->[0] eq 'hang' } attempts($node, 'bad')) < $attempt - 1)
	{
		die "attempt $attempt does not come" if time > $deadline;
		select undef, undef, undef, 0.01;
	}
	$node->safe_psql('postgres', order_events('bad', map { [ "o-$_" ] } 1 .. 10));
	$delivered += 10;
	my $seconds = seconds_until('bad', $delivered);
	note(sprintf 'ten others, while attempt %d hangs: %.2f s', $attempt, $seconds);
	cmp_ok($seconds, '<', 12, "others wait for a moment, attempt $attempt");
}
is($node->safe_psql('postgres', "SELECT key, attempts, state FROM $api.parked_events WHERE subscription = 'bad'"),
	'o-500|3|parked', 'the attempts count');
set_ahead($node, 12 * 3600);
seconds_until('bad', $delivered + 1);
keys_in_order($node, 'bad', 'one that hangs');
$node->stop;
done_testing();
