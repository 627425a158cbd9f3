# shellcheck shell=bash
# What the scripts in this directory share: they source it.
# shellcheck disable=SC2034 # its variables are theirs
set -euo pipefail

# No key is readable for others, not even while it is being written.
umask 077
# openssl, date and sort in one language; no pager, and the AWS CLI's output is the same in any locale.
export LC_ALL=C AWS_PAGER='' PYTHONIOENCODING=utf-8

fail() { printf '%s: %s\n' "${0##*/}" "$2" >&2; exit "$1"; }

# To stderr: stdout is for the id that was asked for.
say() { printf '%s\n' "$1" >&2; }

# --- options

help_ca() {
  cat <<'END'
  --name NAME           which CA (default: sample)
  --directory DIR       where CAs are kept, one directory each (default: $GATEHOUSE_CA_DIR, or else ~/.gatehouse/ca)
END
}

help_aws() {
  cat <<'END'
  --region, --profile, --endpoint-url, --ca-bundle VALUE
                        as in the AWS CLI, which also reads AWS_REGION, AWS_PROFILE, AWS_ENDPOINT_URL, ...
END
}

help_table() {
  cat <<'END'
  --table NAME          the devices table (default: $DEVICES_TABLE, or else gatehouse-devices)
END
}

ca_options='--name --directory'
aws_options='--region --profile --endpoint-url --ca-bundle'
declare -A option=()
words=()

# Takes a command line apart, into `option` and `words`. $1: the options with a value; $2: those without.
parse() {
  local valued=" $1 " flags=" $2 " name
  shift 2
  while (($#)); do
    name=${1%%=*}
    if [[ $1 == -h || $1 == --help ]]; then
      help
      exit
    elif [[ $1 == -- ]]; then
      words+=("${@:2}")
      return
    elif [[ $1 != -* ]]; then
      words+=("$1")
    elif [[ $flags == *" $1 "* ]]; then
      option[$1]=yes
    elif [[ $valued != *" $name "* ]]; then
      fail 2 "unknown option $1 (--help lists them)"
    elif [[ $1 == *=* ]]; then
      option[$name]=${1#*=}
    else
      (($# >= 2)) || fail 2 "$1 needs a value"
      option[$name]=$2
      shift
    fi
    shift
  done
}

no_words() { ((${#words[@]} == 0)) || fail 2 "what is ${words[0]} for? (--help tells what is understood)"; }

# A number of days. $1: the option; $2: its default.
days() {
  local days=${option[$1]:-$2}
  [[ $days =~ ^[1-9][0-9]{0,4}$ ]] || fail 2 "$1 is a number of days, 1 to 99999"
  printf '%s' "$days"
}

algorithm() {
  local algorithm=${option[--algorithm]:-p256}
  [[ $algorithm =~ ^(p256|rsa)$ ]] || fail 2 '--algorithm is p256 or rsa'
  printf '%s' "$algorithm"
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# --- the CA and its files

command -v openssl >/dev/null || fail 1 'openssl is missing'
export OPENSSL_CONF CA_DIRECTORY='' COMMON_NAME=''
OPENSSL_CONF=$(dirname -- "$(realpath -- "${BASH_SOURCE[0]}")")/openssl.cnf

# openssl, which talks much: it is heard only when it fails.
ssl() {
  openssl "$@" 2>"$work/log" || { cat "$work/log" >&2; fail 1 "openssl $1 failed"; }
}

# Sets `name`, `directory` (of all CAs) and `ca` (the directory of this one).
choose_ca() {
  name=${option[--name]:-sample}
  [[ $name =~ ^[a-zA-Z0-9_-]{1,64}$ ]] || fail 2 '--name is 1 to 64 of: letters, digits, - and _'
  directory=$(realpath -m -- "${option[--directory]:-${GATEHOUSE_CA_DIR:-$HOME/.gatehouse/ca}}")
  ca=$directory/$name
  CA_DIRECTORY=$ca
}

# Sets `certificate`, a copy of the CA's, and `ca_id`, its id in AWS IoT. What the scripts write about is `ca_title`.
read_ca() {
  local file=${option[--certificate]:-$ca/ca.crt}
  [[ -f $file ]] || fail 1 "there is no CA certificate $file (infra/ca/create makes a sample CA)"
  certificate=$work/ca.crt
  openssl x509 -in "$file" -out "$certificate" 2>/dev/null || fail 1 "$file is not a certificate in PEM"
  ca_id=$(fingerprint "$certificate")
  ca_title="the CA $name"
  [[ -z ${option[--certificate]:-} ]] || ca_title="the CA of $file"
}

# One script at a time changes a CA that `create` made.
lock_ca() {
  [[ -f $ca/index.txt && -f $ca/ca.key ]] ||
    fail 1 "there is no CA $name with its key in $directory (infra/ca/create makes a sample CA)"
  exec 9>>"$ca/lock"
  flock 9
}

# V if the CA's index has a certificate as valid, R if as revoked, nothing if it is not there. $1: its serial number in
# hex, which is compared as text: awk would take some for numbers.
state() { awk -F'\t' -v serial="$1" '$4 "" == serial "" { print $1 }' "$ca/index.txt"; }

# Keys do not belong in a repository. $1: an absolute path without symbolic links.
keep_out_of_git() {
  local above=$1
  while [[ -n $above && ! -e $above/.git ]]; do above=${above%/*}; done
  [[ -e $above/.git ]] || return 0
  env -u GIT_DIR -u GIT_WORK_TREE -u GIT_INDEX_FILE git -C "$above/" check-ignore --quiet -- "$1/key" 2>/dev/null ||
    fail 1 "$1 is in the git repository ${above:-/}, which does not ignore it: a private key could be committed"
}

# $1: p256 or rsa; $2: how many bits if RSA; $3: the file.
make_key() {
  local how=(EC -pkeyopt ec_paramgen_curve:P-256)
  [[ $1 == p256 ]] || how=(RSA -pkeyopt "rsa_keygen_bits:$2")
  ssl genpkey -algorithm "${how[@]}" -out "$3.new"
  mv -- "$3.new" "$3"
}

# 16 random bytes in hex, of which the first is neither 0 nor makes the number negative.
serial() {
  local hex
  hex=$(openssl rand -hex 16)
  printf '%x%s\n' "$((16#${hex:0:1} % 7 + 1))" "${hex:1}"
}

# The SHA-256 of a certificate's DER: what AWS IoT knows it by.
fingerprint() {
  local hex
  hex=$(openssl x509 -in "$1" -noout -fingerprint -sha256)
  hex=${hex#*=}
  hex=${hex//:/}
  printf '%s' "${hex,,}"
}

# openssl's "what=date" in seconds since 1970.
seconds() { date -u -d "${1#*=}" +%s; }
not_after() { seconds "$(openssl x509 -in "$1" -noout -enddate)"; }
day() { date -u -d "@$1" +%F; }

# Refuses what jitr cannot verify. $1: whose signature it is; $2: what `openssl -text` says of a certificate or a CRL.
check_signature() {
  local algorithm digest bytes
  algorithm=$(sed -n 's/^ *Signature Algorithm: *//p' "$2" | head -n 1)
  algorithm=${algorithm%% *}
  if [[ $algorithm == rsassaPss ]]; then
    digest=$(sed -n 's/^ *Hash Algorithm: *sha\([0-9]*\).*/\1/p' "$2" | head -n 1)
    bytes=$(sed -n 's/^ *Salt Length: *\(0x[0-9A-F]*\).*/\1/p' "$2" | head -n 1)
    algorithm="RSA-PSS with SHA-$digest and a salt of $((${bytes:-0})) bytes"
    [[ $digest =~ ^(256|384|512)$ ]] && ((${bytes:-0} * 8 == digest)) &&
      grep -q "^ *Mask Algorithm: mgf1 with sha$digest" "$2" && return
  fi
  [[ $algorithm =~ ^(sha(256|384|512)WithRSAEncryption|ecdsa-with-SHA(256|384))$ ]] || fail 3 \
    "$1 is signed with $algorithm, which jitr cannot verify: it takes RSA (PKCS#1, or PSS with a salt as long as the \
digest) with SHA-256, -384 or -512, and ECDSA with SHA-256 or -384"
}

# Refuses a CA with whose key jitr cannot verify. $1: what `openssl -text` says of the certificate.
check_key() {
  local algorithm size curve
  algorithm=$(sed -n 's/^ *Public Key Algorithm: *//p' "$1" | head -n 1)
  size=$(sed -n 's/^ *\(RSA \)\?Public-Key: (\([0-9]*\) bit.*/\2/p' "$1" | head -n 1)
  curve=$(sed -n 's/^ *ASN1 OID: *//p' "$1" | head -n 1)
  case $algorithm in
    rsaEncryption)
      ((size < 2048 || size > 8192)) || return 0
      algorithm="RSA of $size bits" ;;
    id-ecPublicKey)
      [[ ! $curve =~ ^(prime256v1|secp384r1)$ ]] || return 0
      algorithm="ECDSA on ${curve:-no named curve}" ;;
  esac
  fail 3 "the CA's key is $algorithm, with which jitr cannot verify: it takes RSA of 2,048 to 8,192 bits, P-256 and \
P-384"
}

# --- AWS

# The AWS CLI, with the options that are its.
cli() {
  local name options=()
  for name in $aws_options; do
    [[ -z ${option[$name]+set} ]] || options+=("$name" "${option[$name]}")
  done
  aws "${options[@]+"${options[@]}"}" "$@"
}

need_aws() { command -v aws >/dev/null || fail 1 'the AWS CLI is missing: https://aws.amazon.com/cli/'; }

# Calls AWS. 0: done; 1: it answered with the error $1. Any other error ends the script.
try() {
  local error=$1 status=0
  shift
  cli "$@" 2>"$work/error" || status=$?
  ((status)) || return 0
  ! grep -q "($error)" "$work/error" || return 1
  cat "$work/error" >&2
  exit "$status"
}

# Items travel in files: no length limit, nothing of them in the process list.

# Names the CA's item $1 in the devices table to the commands of the AWS CLI that take $key.
choose_item() {
  printf '{"id": {"S": "ca#%s"}, "part": {"S": "%s"}}' "$ca_id" "$1" >"$work/key"
  key=(--table-name "${option[--table]:-${DEVICES_TABLE:-gatehouse-devices}}" --key "file://$work/key")
}

# Sets `status` (ACTIVE, INACTIVE, or nothing if AWS IoT does not know the CA) and `auto_registration`.
read_registration() {
  status='' auto_registration=''
  try ResourceNotFoundException iot describe-ca-certificate --certificate-id "$ca_id" --output text \
    --query 'certificateDescription.[status, autoRegistrationStatus]' >"$work/registration" || return 0
  read -r status auto_registration <"$work/registration"
}

# $1: ACTIVE or INACTIVE; $2: ENABLE or DISABLE.
set_registration() {
  cli iot update-ca-certificate --certificate-id "$ca_id" --new-status "$1" --new-auto-registration-status "$2"
}
