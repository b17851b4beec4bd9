# Duplicates in the server's log and among the hot keys: what the settings
# log_duplicates and hot_keys let be seen of them, and that both, and the rates,
# survive a clean restart.
#
# Bugs that this catches: a line that is no JSON, a call that is no duplicate or
# is missing, a log that is flooded, lines left out that nobody is told of; a key
# that is shown although its owner's data must not be; calls that are lost when
# ten seconds are over.

use strict;
use warnings;

use Digest::SHA qw(sha256_hex);
use FindBin;
use JSON::PP;
use lib "$FindBin::RealBin/../lib";

use OrderIdempotency::Node;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('duplicates', conf => <<~'CONF');
	order_idempotency.log_duplicates = 1000
	order_idempotency.in_flight_wait = 0
	log_statement = none
	log_min_error_statement = panic
	CONF
my $api = 'order_idempotency';
my $seen = 0;

# What was logged of duplicates since the last call.
sub logged
{
	my $log = slurp_file($node->logfile, $seen);

	$seen += length $log;
	return map { decode_json($_) } $log =~ /LOG:  duplicate call: (.*)$/mg;
}

# The same as text: function outcome scope key, left out, one a line.
sub lines
{
	return join "\n", map {
		my $line = $_;
		join ' ', map { $line->{$_} // '-' } qw(function outcome scope key key_sha256 suppressed)
	} logged();
}

sub set
{
	my ($setting, $value) = @_;

	$node->safe_psql('postgres', "ALTER SYSTEM SET $api.$setting = '$value'");
	$node->reload;
	$node->poll_query_until('postgres', "SHOW $api.$setting", $value) or die;
	return;
}

# Waits until lines of this second do not count any more.
sub next_second
{
	my $now = $node->safe_psql('postgres', 'SELECT clock_timestamp()');

	$node->poll_query_until('postgres', "SELECT date_trunc('second', clock_timestamp()) > '$now'") or die;
	return;
}

sub hot
{
	return $node->safe_psql('postgres', "SELECT key, retries FROM $api.hot_keys ORDER BY key COLLATE \"C\"");
}

# -- lines ---------------------------------------------------------------------

my $session = $node->background_psql('postgres', on_error_stop => 0);
my $began = $node->safe_psql('postgres', 'SELECT now()');
my $key = "quo\"te \\ back\nline \x{c3}\x{a4}";

$session->query_safe("BEGIN; SELECT FROM $api.claim_key('held'); SELECT FROM $api.create_order('held', 1, 'EUR')");
is(lines(), '', 'first calls are not logged');
# two of them raise an error
$node->psql('postgres', <<~"SQL", on_error_stop => 0);
	SELECT FROM $api.claim_key('k', '1', 'inbox');
	SELECT FROM $api.claim_key('k', '1', 'inbox');
	SELECT FROM $api.claim_key('k', '2', 'inbox');
	SELECT FROM $api.claim_key('held');
	SELECT FROM $api.create_order(\$\$$key\$\$, 1, 'EUR');
	SELECT FROM $api.create_order(\$\$$key\$\$, 1, 'EUR');
	SELECT FROM $api.create_order(\$\$$key\$\$, 2, 'EUR');
	SELECT FROM $api.create_order('held', 1, 'EUR');
	SELECT FROM $api.transition_order(\$\$$key\$\$, 'created');
	SELECT FROM $api.transition_order(\$\$$key\$\$, 'completed');
	SELECT FROM $api.cancel_order(\$\$$key\$\$);
	SELECT FROM $api.cancel_order(\$\$$key\$\$);
	SQL
my @lines = logged();
is(join("\n", map { "$_->{function} $_->{outcome} " . ($_->{scope} // '-') } @lines), <<~'LINES' =~ s/\n\z//r, 'each duplicate is');
	claim_key replayed inbox
	claim_key mismatch inbox
	claim_key in_progress default
	create_order replayed -
	create_order mismatch -
	create_order in_progress -
	transition_order replayed -
	cancel_order replayed -
	LINES
is($lines[0]{key}, 'k', 'with its key');
is($lines[3]{key}, do { my $k = $key; utf8::decode($k); $k }, 'whatever that is');
is("$lines[0]{database} $lines[0]{role} $lines[0]{suppressed}", 'postgres ' . $node->safe_psql('postgres', 'SELECT current_user') . ' 0',
	'and by whom');
is((grep { exists $_->{key_sha256} } @lines) + 0, 0, 'and no hash beside it');
my $hot = hot();
like($hot, qr/^held\|1\nheld\|1\nk\|1\n/, 'and is a hot key, but for mismatches');

# -- as many as are allowed ------------------------------------------------------

set('log_duplicates', 3);
next_second();
logged();
$node->safe_psql('postgres', "SELECT $api.claim_key('k', '1', 'inbox') FROM generate_series(1, 500)");
my $first = () = logged();
cmp_ok($first, '>=', 3, 'three a second are logged');
cmp_ok($first, '<=', 30, 'and not all of five hundred');
next_second();
$node->safe_psql('postgres', "SELECT $api.claim_key('k', '1', 'inbox')");
my ($next) = logged();
ok($next && $next->{suppressed} > 400, 'the next line says how many were left out');
is($next->{suppressed} + $first, 500, 'which is all of them') if $first == 3;
set('log_duplicates', 0);
logged();
$node->safe_psql('postgres', "SELECT $api.claim_key('k', '1', 'inbox')");
is(lines(), '', 'none where the setting is 0');

# -- what is shown of keys ---------------------------------------------------------

set('log_duplicates', 1000);
set('hot_keys', 'hash');
logged();
is(hot(), '', 'keys that were kept as they are, are not shown when only hashes may be');
$node->safe_psql('postgres', "SELECT FROM $api.claim_key('k', '1', 'inbox')");
my $hash = substr sha256_hex('k'), 0, 32;
is(hot(), "sha256:$hash|1", 'the hash of a key');
is(lines(), "claim_key replayed inbox - $hash 0", 'in the log, too');
set('hot_keys', 'off');
logged();
$node->safe_psql('postgres', "SELECT FROM $api.claim_key('k', '1', 'inbox')");
is(hot(), '', 'no key at all');
is(lines(), 'claim_key replayed inbox - - 0', 'nor in the log');
set('hot_keys', 'hash');
is(hot(), "sha256:$hash|1", 'which was not kept either');

# -- time passes, and restarts -----------------------------------------------------

# The ten seconds that the session counted in are over when it counts again.
$node->poll_query_until('postgres', "SELECT now() >= '$began'::timestamptz + interval '11 s'") or die;
$session->query_safe('ROLLBACK');
$session->query_safe("SELECT FROM $api.claim_key('held')");
my $rates = "SELECT source, minutes, firsts, retries FROM $api.retry_ratio WHERE minutes = 60";
my $counted = $node->safe_psql('postgres', <<~"SQL");
	SELECT source, minutes, CASE source WHEN 'claims' THEN c.claimed ELSE o.created + o.cancelled END,
		CASE source WHEN 'claims' THEN c.replayed + c.in_progress ELSE o.replayed + o.in_progress END
	FROM $api.claim_stats c, $api.order_stats o, $api.retry_ratio WHERE minutes = 60
	SQL
is($node->safe_psql('postgres', $rates), $counted, 'a session\'s calls of earlier seconds are counted on');
like($counted, qr/^claims\|60\|3\|50[0-9]\n/, 'all of them');
$node->restart;
is($node->safe_psql('postgres', $rates), $counted, 'a clean restart keeps rates');
is(hot(), "sha256:$hash|1", 'and hot keys');
set('hot_keys', 'plain');
is(hot() =~ s/^k\|\d+$/k|n/mr, $hot =~ s/^k\|\d+$/k|n/mr, 'of both kinds');
$session->quit;

# -- without preloading -----------------------------------------------------------

$node->append_conf('postgresql.conf', "shared_preload_libraries = ''");
$node->restart;
logged();
is($node->safe_psql('postgres', "SELECT FROM $api.claim_key('k', '1', 'inbox'); SELECT count(*) FROM $api.hot_keys, $api.retry_ratio"),
	'0', 'without preloading there are no statistics');
is(lines(), 'claim_key replayed inbox k - 0', 'but the log has its line');

$node->stop;
done_testing();
