# Promise 9: whatever bytes come from a receiver, from who defines a server, or from an application, the
# parts that take them apart come to their end, and what they say is true.  Without a server:
# test/fuzz has these parts as programs, built with sanitizers, and the inputs that
# were of interest so far.  "make fuzz" goes on from there.
#
# Bugs that this catches, planted and seen to fail: an answer of Redis with a zero byte taken
# for a delivery; one with a number where a text should be, which ended the process.

use strict;
use warnings;

use FindBin;
use PostgreSQL::Test::Utils;
use Test::More;

my $inputs = $ENV{FUZZ_INPUTS} || 20_000;
my $seed = $ENV{SEED} || 1;
my $fuzz = "$FindBin::RealBin/../fuzz";
my $dir = PostgreSQL::Test::Utils::tempdir();
my @make = ('make', '-s', '-C', $dir, '-f', "$fuzz/Makefile", "PG_CONFIG=$ENV{PG_CONFIG}");

plan skip_all => 'there is no libhiredis' if system 'pkg-config --exists hiredis';
plan skip_all => 'there is no AddressSanitizer'
  if system "echo 'int main(void) { return 0; }' | \${CC:-cc} -fsanitize=address,undefined -x c -o $dir/probe - 2>/dev/null && $dir/probe";

command_ok([ @make, 'all' ], 'the targets are built without a server');
foreach my $target (qw(event options redis topic))
{
	my @corpus = sort glob "$fuzz/corpus/$target/*";

	local $ENV{ASAN_OPTIONS} = 'detect_leaks=0';
	cmp_ok(scalar @corpus, '>=', 3, "$target: a corpus");
	command_ok([ "$dir/check_$target", $inputs, $seed, @corpus ], "$target: the corpus and $inputs inputs more");
}
done_testing();
