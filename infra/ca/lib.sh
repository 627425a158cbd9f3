# shellcheck shell=bash
# Functions that the scripts in this directory share by sourcing this file.
# shellcheck disable=SC2034 # the scripts use its variables
set -euo pipefail

# No key is readable by others, not even while it is being written.
umask 077
# The same output of openssl, date, sort and the AWS CLI in every locale; no pager.
export LC_ALL=C AWS_PAGER='' PYTHONIOENCODING=utf-8

fail() { printf '%s: %s\n' "${0##*/}" "$2" >&2; exit "$1"; }

# To stderr: stdout is for the requested id.
say() { printf '%s\n' "$1" >&2; }

# --- options

help_ca() {
  cat <<'END'
  --name NAME           name of the CA (default: sample)
  --directory DIR       directory of all CAs (default: $GATEHOUSE_CA_DIR, or ~/.gatehouse/ca)
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
  --table NAME          devices table (default: $DEVICES_TABLE, or gatehouse-devices)
END
}

ca_options='--name --directory'
aws_options='--region --profile --endpoint-url --ca-bundle'
declare -A option=()
words=()

# Parses a command line into `option` and `words`. $1: options with a value; $2: options without.
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
      fail 2 "unknown option $1 (see --help)"
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

no_words() { ((${#words[@]} == 0)) || fail 2 "unexpected argument ${words[0]} (see --help)"; }

# Prints a number of days. $1: the option; $2: its default.
days() {
  local days=${option[$1]:-$2}
  [[ $days =~ ^[1-9][0-9]{0,4}$ ]] || fail 2 "$1 must be a number of days, 1 to 99999"
  printf '%s' "$days"
}

algorithm() {
  local algorithm=${option[--algorithm]:-p256}
  [[ $algorithm =~ ^(p256|rsa)$ ]] || fail 2 '--algorithm must be p256 or rsa'
  printf '%s' "$algorithm"
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# --- the CA and its files

command -v openssl >/dev/null || fail 1 'openssl is required'
export OPENSSL_CONF CA_DIRECTORY='' COMMON_NAME=''
OPENSSL_CONF=$(dirname -- "$(realpath -- "${BASH_SOURCE[0]}")")/openssl.cnf

# Runs openssl; prints its log only if it fails.
ssl() {
  openssl "$@" 2>"$work/log" || { cat "$work/log" >&2; fail 1 "openssl $1 failed"; }
}

# Sets `name`, `directory` (of all CAs) and `ca` (the directory of this one).
choose_ca() {
  name=${option[--name]:-sample}
  [[ $name =~ ^[a-zA-Z0-9_-]{1,64}$ ]] || fail 2 '--name must be 1 to 64 letters, digits, - and _'
  directory=$(realpath -m -- "${option[--directory]:-${GATEHOUSE_CA_DIR:-$HOME/.gatehouse/ca}}")
  ca=$directory/$name
  CA_DIRECTORY=$ca
}

# Sets `certificate` (a copy of the CA certificate), `ca_id` (its id in AWS IoT) and `ca_title` (its name in messages).
read_ca() {
  local file=${option[--certificate]:-$ca/ca.crt}
  [[ -f $file ]] || fail 1 "found no CA certificate $file (infra/ca/create creates a sample CA)"
  certificate=$work/ca.crt
  openssl x509 -in "$file" -out "$certificate" 2>/dev/null || fail 1 "$file is not a certificate in PEM format"
  ca_id=$(fingerprint "$certificate")
  ca_title="the CA $name"
  [[ -z ${option[--certificate]:-} ]] || ca_title="the CA of $file"
}

# Locks a CA that `create` created: one script at a time changes it.
lock_ca() {
  [[ -f $ca/index.txt && -f $ca/ca.key ]] ||
    fail 1 "found no CA $name with its key in $directory (infra/ca/create creates a sample CA)"
  exec 9>>"$ca/lock"
  flock 9
}

# Prints the state of a certificate in the CA's index: V for valid, R for revoked, nothing if it is not listed. $1: its
# serial number in hex, compared as text because awk would read some as numbers.
state() { awk -F'\t' -v serial="$1" '$4 "" == serial "" { print $1 }' "$ca/index.txt"; }

# Fails if git could commit a key in this directory. $1: an absolute path without symbolic links.
keep_out_of_git() {
  local above=$1
  while [[ -n $above && ! -e $above/.git ]]; do above=${above%/*}; done
  [[ -e $above/.git ]] || return 0
  env -u GIT_DIR -u GIT_WORK_TREE -u GIT_INDEX_FILE git -C "$above/" check-ignore --quiet -- "$1/key" 2>/dev/null ||
    fail 1 "$1 is in the git repository ${above:-/} and not ignored: a private key could be committed"
}

# Creates a key. $1: p256 or rsa; $2: number of bits for RSA; $3: the file.
make_key() {
  local how=(EC -pkeyopt ec_paramgen_curve:P-256)
  [[ $1 == p256 ]] || how=(RSA -pkeyopt "rsa_keygen_bits:$2")
  ssl genpkey -algorithm "${how[@]}" -out "$3.new"
  mv -- "$3.new" "$3"
}

# Prints 16 random bytes in hex. The first digit is 1 to 7, so that the number is positive and has full length.
serial() {
  local hex
  hex=$(openssl rand -hex 16)
  printf '%x%s\n' "$((16#${hex:0:1} % 7 + 1))" "${hex:1}"
}

# Prints the SHA-256 of a certificate in DER, which is its id in AWS IoT.
fingerprint() {
  local hex
  hex=$(openssl x509 -in "$1" -noout -fingerprint -sha256)
  hex=${hex#*=}
  hex=${hex//:/}
  printf '%s' "${hex,,}"
}

# Converts openssl's "name=date" to seconds since 1970.
seconds() { date -u -d "${1#*=}" +%s; }
not_after() { seconds "$(openssl x509 -in "$1" -noout -enddate)"; }
day() { date -u -d "@$1" +%F; }

# Fails if jitr cannot verify a signature. $1: what is signed; $2: output of `openssl -text` for a certificate or CRL.
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
    "$1 is signed with $algorithm, which jitr does not support: use RSA (PKCS#1, or PSS with a salt as long as the \
digest) with SHA-256, -384 or -512, or ECDSA with SHA-256 or -384"
}

# Fails if jitr does not support the key of a CA. $1: output of `openssl -text` for its certificate.
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
  fail 3 "the CA's key is $algorithm, which jitr does not support: use RSA with 2,048 to 8,192 bits, P-256 or P-384"
}

# --- AWS

# Runs the AWS CLI with its options.
cli() {
  local name options=()
  for name in $aws_options; do
    [[ -z ${option[$name]+set} ]] || options+=("$name" "${option[$name]}")
  done
  aws "${options[@]+"${options[@]}"}" "$@"
}

need_aws() { command -v aws >/dev/null || fail 1 'the AWS CLI is required: https://aws.amazon.com/cli/'; }

# Calls AWS. Returns 0 on success and 1 on the error $1. Any other error ends the script.
try() {
  local error=$1 status=0
  shift
  cli "$@" 2>"$work/error" || status=$?
  ((status)) || return 0
  ! grep -q "($error)" "$work/error" || return 1
  cat "$work/error" >&2
  exit "$status"
}

# Items are passed in files: no length limit, nothing in the process list.

# Sets `key`, the AWS CLI options for the CA's item $1 in the devices table.
choose_item() {
  printf '{"id": {"S": "ca#%s"}, "part": {"S": "%s"}}' "$ca_id" "$1" >"$work/key"
  key=(--table-name "${option[--table]:-${DEVICES_TABLE:-gatehouse-devices}}" --key "file://$work/key")
}

# Sets `status` (ACTIVE, INACTIVE, or empty if the CA is not registered) and `auto_registration`.
read_registration() {
  status='' auto_registration=''
  try ResourceNotFoundException iot describe-ca-certificate --certificate-id "$ca_id" --output text \
    --query 'certificateDescription.[status, autoRegistrationStatus]' >"$work/registration" || return 0
  read -r status auto_registration <"$work/registration"
}

# Updates the CA in AWS IoT. $1: ACTIVE or INACTIVE; $2: ENABLE or DISABLE.
set_registration() {
  cli iot update-ca-certificate --certificate-id "$ca_id" --new-status "$1" --new-auto-registration-status "$2"
}
