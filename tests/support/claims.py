"""The claims of SECURITY.md and README.md, with mutations that make each claim false.

The keys are the tests of the claims: all tests that SECURITY.md names, and tests of README's claims.
`python -m tests.campaigns.mutations` applies each mutation to a copy of the tree, where the test must then
fail. `test_security.py` checks that the list is complete and that each `old` is in its file.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mutation:
    """In `file`, `new` replaces `old`, which must occur exactly once."""

    file: str
    old: str
    new: str


_HOSTS = "provider/ocir/hosts.py"
_PLUGIN = "provider/plugin/call.py"
_IMAGE = "provider/image.py"
_IMDS = "provider/auth/imds.py"
_TMPFS = "provider/cache/tmpfs.py"
_TOKEN_CACHE = "provider/cache/token_cache.py"
_HTTP = "provider/net/http.py"
_TLS_FILE = "provider/net/tls.py"
_TOKEN_ENDPOINT = "provider/ocir/token.py"
_FLIGHT = "provider/cache/single_flight.py"
_ENTRIES = "provider/cache/entries.py"
_CLIENT = "provider/net/client.py"
_EXCHANGE = "provider/ocir/exchange.py"
_WORKLOAD = "provider/auth/workload_identity.py"
_KUBECONFIG = "provider/auth/kubeconfig.py"
_OCI_FILES = "provider/auth/oci_files.py"
_LOG = "provider/log.py"
_LAUNCHER = "packaging/freeze/launcher.c"
_ROOT_ONLY = "provider/root_only.py"
_PROCESSES = "provider/commands/node/processes.py"
_CHECK_KUBELET = "provider/commands/check/kubelet.py"
_CHECK_RUNNER = "provider/commands/check/runner.py"
_INSTALL = "provider/commands/install/install.py"
_UNINSTALL = "provider/commands/install/uninstall.py"
_CLOUD_INIT = "examples/run-on-worker-instance-principal/cloud-init.sh"
_ENTER_HOST = "packaging/image/enter_host.c"
_DAEMONSET = "examples/run-on-worker-instance-principal/daemonset.yaml"

_COMPONENTS = 'all(map(_is_component, repository.split("/")))'
_TLS = "context.minimum_version = ssl.TLSVersion.TLSv1_2"
_TOKEN = "    return Token(text, expires_in, answer.request_id)"
_SIGN = (
    '    answer = client.request("GET", path, lambda: signer.sign_get(path, client.origin.netloc))'
)
_CHOICES = '_CHOICES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")'
_NETRC = (
    "    def headers() -> dict[str, str]:\n"
    "        import netrc, os\n"
    "        try:\n"
    "            found = netrc.netrc(FILE).authenticators(client.origin.host)\n"
    "        except OSError:\n"
    "            found = None\n"
    "        signed = signer.sign_get(path, client.origin.netloc)\n"
    '        return {**signed, "authorization": "Basic x"} if found else signed\n'
    '    answer = client.request("GET", path, headers)'
)

CLAIMS: dict[str, tuple[Mutation, ...]] = {
    # --- author of a pod ---
    "test_nothing_is_signed_for_a_host_outside_the_grammar": (
        Mutation(_HOSTS, 'if len(labels) == 3 and labels[1:] == ["ocir", "io"]', 'if labels[-2:] == ["ocir", "io"]'),
        Mutation(_HOSTS, "return claimed_realm_domain(image_host) in REALM_DOMAINS.values()", "return claimed_realm_domain(image_host) is not None"),
        Mutation(_HOSTS, "    if port not in (None, HTTPS_PORT):\n        return False\n    labels", "    labels"),
    ),
    "test_another_registry_gets_an_empty_response_without_a_packet": (
        Mutation(_PLUGIN, "            return NO_CREDENTIALS", '            return Response(image.host, "u", "p", 0)'),
        Mutation(_PLUGIN, "            return NO_CREDENTIALS", "            import contextlib, socket\n            with contextlib.suppress(OSError):\n                socket.getaddrinfo(image.host, 443)\n            return NO_CREDENTIALS"),
        Mutation(_PLUGIN, "return bool(claimed) and on_a_node and claimed == instance_region(invocation).realm_domain", "return claimed == instance_region(invocation).realm_domain and on_a_node"),
        Mutation("provider/plugin/response.py", "    cache_seconds: int = 0", "    cache_seconds: int = 300"),
    ),
    "test_a_name_of_ocirs_form_in_a_foreign_domain_is_refused_after_asking_imds": (
        Mutation(_PLUGIN, " and claimed == instance_region(invocation).realm_domain", ""),
    ),
    "test_names_in_foreign_domains_query_imds_once": (
        Mutation(_TOKEN_CACHE, "                flight.remember(known)\n", ""),
    ),
    "test_invented_registries_use_no_identity": (
        Mutation(_TOKEN_CACHE, "        if not self._is_known():", "        if False:"),
        Mutation(_TOKEN_CACHE, "    if not is_known_registry(image.host, invocation.settings.ocir_hosts):", "    if False:"),
    ),
    "test_an_invented_registry_with_a_server_uses_no_identity": (
        Mutation(_TOKEN_CACHE, "        if not self._is_known():", "        if False:"),
    ),
    "test_one_unknown_registry_per_minute_uses_an_identity": (
        Mutation(_FLIGHT, "if recent and admitted != host:", "if False:"),
    ),
    "test_registries_that_hang_delay_no_other_registry": (
        Mutation(_TOKEN_CACHE, "            exchange.connect(image, invocation)\n            self._flight", "            with self._flight:\n                exchange.connect(image, invocation)\n            self._flight"),
    ),
    "test_the_cache_has_a_file_limit_and_keeps_useful_tokens": (
        Mutation(_TMPFS, "count > _MAX_FILES or", "False or"),
        Mutation(_TMPFS, "(entry_of(name) in files, files[name].st_mtime)", "files[name].st_mtime"),
    ),
    "test_the_cache_has_a_size_limit": (
        Mutation(_TMPFS, "or size > _MAX_TOTAL_BYTES", "or False"),
    ),
    "test_a_failed_exchange_cleans_the_cache": (
        Mutation(_TOKEN_CACHE, "        finally:\n            self._store.sweep()", "        finally:\n            pass"),
    ),
    "test_registries_share_a_failure_of_federation": (
        Mutation(_FLIGHT, "            self._slot.write(failure_content(error))", "            pass"),
    ),
    "test_a_repository_cannot_escape_its_path": (
        Mutation(_IMAGE, _COMPONENTS, 'consists_of(repository, LOWER_ALNUM | frozenset("./_-"))'),
        Mutation(_IMAGE, "LOWER_ALNUM | _SEPARATORS)", 'LOWER_ALNUM | _SEPARATORS | frozenset("\\r\\n: "))'),
    ),
    "test_any_input_is_answered_or_refused_with_an_expected_error": (
        Mutation(_IMAGE, "(not colon or _is_tag(tag))", "True"),
        Mutation(_IMAGE, "(not at or _is_digest(digest))", "True"),
        Mutation(_IMAGE, "_is_host(host)", "bool(host)"),
    ),
    "test_a_pod_pulls_as_its_service_account_and_only_what_that_may_pull": (
        Mutation(_PLUGIN, "        subject = subject_of(settings,", '        settings = settings._replace(ocir_auth_method="INSTANCE_PRINCIPAL")\n        invocation = invocation._replace(settings=settings)\n        subject = subject_of(settings,'),
    ),
    "test_a_forged_token_with_an_accounts_claims_never_gets_a_cached_token": (
        Mutation("provider/auth/service_account.py", "digest = hashlib.sha256(self.token.encode()).hexdigest()", 'digest = ""'),
    ),
    "test_two_accounts_never_share_a_token": (
        Mutation("provider/auth/service_account.py", 'return f"{self.namespace}/{self.name} {self.uid} {self.audience} {digest}"', 'return f"{self.namespace}/{self.name}"'),
    ),
    "test_a_storm_makes_one_exchange_and_all_calls_get_credentials": (
        Mutation(_TOKEN_CACHE, "        if lock.acquire():\n            try:", "        if lock.acquire() or True:\n            try:"),
    ),
    "test_a_storm_shares_one_failure": (
        Mutation(_ENTRIES, "        if arrived <= at <= now() or 0 <= now() - at < shared:", "        if False:"),
    ),
    # --- owner of the node's network ---
    "test_a_fault_ends_in_time_with_the_right_code_and_few_requests": (
        Mutation(_TLS_FILE, _TLS, f"{_TLS}; context.check_hostname = False"),
        Mutation(_TLS_FILE, _TLS, f"{_TLS}; context.check_hostname = False; context.verify_mode = ssl.CERT_NONE"),
        Mutation(_TLS_FILE, _TLS, "context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED; context.set_ciphers('ALL:@SECLEVEL=0')"),
        Mutation(_CLIENT, "                return self._try(method, target, headers(), body, seconds)\n", "                answer = self._try(method, target, headers(), body, seconds)\n                if answer.status in (301, 302, 307, 308):\n                    from urllib.parse import urlsplit\n                    to = urlsplit(answer.headers['location'])\n                    self.origin = Origin(to.scheme, to.hostname or '', to.port or 443)\n                    self._connection = None\n                    answer = self._try(method, target, headers(), body, seconds)\n                return answer\n"),
        Mutation(_HTTP, 'self._sock.settimeout(self._deadline.left(f"waiting for {self._asked}"))', "self._sock.settimeout(600)"),
        Mutation(_TOKEN_ENDPOINT, "    if not is_token(text):", "    if text is None:"),
    ),
    "test_a_dns_lookup_that_hangs_ends_at_the_deadline": (
        Mutation(_CLIENT, '        opening = Background(lambda: self._open(limit))\n        return opening.result(limit, f"connecting to {self.origin.netloc}")', "        return self._open(limit)"),
    ),
    "test_tls_is_retried_only_after_a_lost_connection": (
        Mutation(_HTTP, "            raise (UnknownIssuer if unknown else TlsUntrusted)(", "            raise Failure("),
        Mutation(_CLIENT, "        except UnknownIssuer:\n            if not others", "        except TlsUntrusted:\n            if not others"),
        Mutation(_HTTP, '{error.reason}", retryable=False\n            ) from error', '{error.reason}"\n            ) from error'),
        Mutation(_HTTP, '        except OSError as error:\n            raise Failure(f"TLS with {self.origin.host}: {error.strerror or error}") from error', '        except OSError as error:\n            raise TlsUntrusted("lost") from error'),
    ),
    "test_a_root_in_neither_is_not_trusted": (
        Mutation(_TLS_FILE, _TLS, f"{_TLS}; context.check_hostname = False; context.verify_mode = ssl.CERT_NONE"),
    ),
    "test_a_get_has_the_sdks_signature": (
        Mutation("provider/auth/signer.py", '("date", "(request-target)", "host"))', '("date", "(request-target)"))'),
        Mutation("provider/auth/signer.py", '("date", "(request-target)", "host"))', '("(request-target)", "host"))'),
    ),
    "test_a_federation_post_has_the_sdks_signature": (
        Mutation("provider/auth/signer.py", '"content-type", "x-content-sha256")\n        return', '"content-type")\n        return'),
    ),
    "test_an_invalid_setting_is_named_with_the_allowed_values": (
        Mutation(_EXCHANGE, 'if scheme == "http" and host not in LOOPBACK:', "if False:"),
    ),
    "test_an_endless_answer_is_read_within_bounds": (
        Mutation(_HTTP, "self._most -= count", "pass"),
        Mutation(_HTTP, "MAX_BODY = 1 << 20", "MAX_BODY = 1 << 26"),
    ),
    "test_external_text_never_becomes_a_log_field": (
        Mutation(_LOG, """    return f'"{escaped}"'""", """    return f'"{text}"'"""),
        Mutation(_LOG, "_quoted(_printable(message))", "_printable(message)"),
        Mutation(_HTTP, '    if not _REQUEST_ID.fullmatch(given):\n        return "withheld"\n', ""),
    ),
    "test_the_metadata_service_never_supplies_the_ca": (
        Mutation(_WORKLOAD, "    if not ca:\n        raise ClusterUnknown(", "    ca = ca or base64.b64decode(json.loads(metadata()).get('cluster_ca_cert', '')).decode()\n    if not ca:\n        raise ClusterUnknown("),
    ),
    "test_an_address_from_the_metadata_service_needs_the_clusters_certificate": (
        Mutation(_WORKLOAD, "    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)\n", "    context = ssl._create_unverified_context()\n"),
    ),
    "test_an_untrusted_kubeconfig_gets_no_token": (
        Mutation(_KUBECONFIG, "if others := who_can_replace(path):", "if others := None:"),
        Mutation(_KUBECONFIG, "    if unverified:", "    if False:"),
        Mutation(_KUBECONFIG, 'if parts.scheme != "https" or not', "if not"),
    ),
    "test_only_roots_kubelet_is_trusted": (
        Mutation(_KUBECONFIG, 'if program == "kubelet" and users', "if users"),
        Mutation(_KUBECONFIG, ' and users == [b"0"] * 4 else', " else"),
    ),
    "test_a_cached_token_requires_every_part_of_its_proof": (
        Mutation(_OCI_FILES, "self.key, self.session))", "self.session))"),
        Mutation(_OCI_FILES, "self.key, self.session))", "self.key))"),
        Mutation(_OCI_FILES, "sorted(self.values.items()), self.key", "self.key"),
    ),
    "test_the_bytes_that_sign_are_the_bytes_in_the_cache_key": (
        Mutation("provider/auth/sdk_principals.py", "            token = profile.session.decode", '            profile = profile._replace(session=open(values["security_token_file"], "rb").read(), key=open(values["key_file"], "rb").read())\n            token = profile.session.decode'),
    ),
    "test_no_outcome_shows_a_secret": (
        Mutation(_HTTP, 'return f"{self.asked} answered {self.status} (opc-request-id {self.request_id})"', 'return f"{self.asked} answered {self.status} {self.body!r}"'),
        Mutation(_HTTP, "(opc-request-id {self.request_id})", "({dict(self.headers.items())})"),
        Mutation(_PLUGIN, '"token_request_id": credentials.token.request_id', '"token_request_id": credentials.token.text'),
        Mutation("provider/auth/instance_principal.py", 'raise FederationMalformed(f"{answer.describe()} without a token")', 'raise FederationMalformed(f"{answer.describe()} without a token {token}")'),
    ),
    "test_a_proxy_is_for_servers_and_never_for_the_metadata_service": (
        Mutation(_IMDS, "connection = Connection(self._origin)", "import os\n        from provider.net.tls import proxy_for\n        connection = Connection(self._origin, None, proxy_for(self._origin.host, os.environ))"),
        Mutation(_TLS_FILE, 'environ.get("https_proxy") or environ.get("HTTPS_PROXY")', 'environ.get("https_proxy")'),
    ),
    "test_region_info_of_any_shape_gives_a_valid_host_or_none": (
        Mutation(_IMDS, 'if is_domain_name(f"{region}.{domain}") and "." not in region and is_domain_name(domain):', "if True:"),
    ),
    # --- another user of the node ---
    "test_the_cache_is_private": (
        Mutation(_TMPFS, "os.mkdir(path, 0o700)", "os.mkdir(path, 0o755); os.chmod(path, 0o755)"),
        Mutation(_TMPFS, "os.O_WRONLY | os.O_CREAT | os.O_EXCL | _SAFE, 0o600", "os.O_WRONLY | os.O_CREAT | os.O_EXCL | _SAFE, 0o644"),
    ),
    "test_an_unsafe_cache_is_a_miss_and_never_a_failure": (
        Mutation(_TMPFS, "_SAFE = os.O_NOFOLLOW | os.O_CLOEXEC", "_SAFE = os.O_CLOEXEC"),
        Mutation(_TMPFS, "if status.st_uid != os.geteuid():", "if False:"),
        Mutation(_TMPFS, "if stat.S_IMODE(status.st_mode) & 0o077:", "if False:"),
        Mutation(_TMPFS, "if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_BYTES:", "if status.st_size > _MAX_BYTES:"),
        Mutation(_TOKEN_CACHE, "    except CacheUnavailable as error:\n        invocation.log.cache_unavailable(error)\n        return _fetch_uncached(image, invocation)", "    except KeyError as error:\n        invocation.log.cache_unavailable(error)\n        return _fetch_uncached(image, invocation)"),
    ),
    "test_without_tmpfs_there_is_no_cache": (
        Mutation(_TMPFS, "            if _in_memory(fd):", "            if True:"),
    ),
    "test_processes_show_no_secret_to_who_looks_at_them": (
        Mutation(_TOKEN_ENDPOINT, _TOKEN, f"    import subprocess\n    subprocess.run(['sh', '-c', 'sleep 0.3; true', text])\n{_TOKEN}"),
        Mutation(_TOKEN_ENDPOINT, _TOKEN, f"    import subprocess\n    subprocess.run(['sleep', '0.3'], env={{'T': text}})\n{_TOKEN}"),
    ),
    "test_a_cold_and_a_warm_call_touch_nothing_that_is_not_listed": (
        Mutation(_TOKEN_ENDPOINT, _TOKEN, f"    with open('/tmp/token', 'w') as file:\n        file.write(text)\n{_TOKEN}"),
        Mutation("provider/log.py", "JOURNAL = \"/run/systemd/journal/socket\"", 'JOURNAL = "/run/elsewhere"'),
    ),
    "test_a_core_dump_is_impossible": (
        Mutation("provider/__main__.py", "resource.setrlimit(resource.RLIMIT_CORE, (1, 1))", "resource.setrlimit(resource.RLIMIT_CORE, (0, 0))"),
    ),
    "test_a_users_call_dumps_no_core_unless_its_hard_limit_is_0": (
        Mutation("provider/__main__.py", "resource.setrlimit(resource.RLIMIT_CORE, (1, 1))", "pass"),
    ),
    "test_planted_folders_and_links_are_left_alone": (
        Mutation(_LAUNCHER, "        if (!fstat(folder, &status) && status.st_uid == geteuid() && (status.st_mode", "        if (!fstat(folder, &status) && (status.st_mode"),
        Mutation(_LAUNCHER, " && (status.st_mode & 07777) == 0700\n", "\n"),
        Mutation(_LAUNCHER, "        if (!mkdtemp(name)) {", '        snprintf(name, sizeof name, "%s/" PREFIX "cccccc", path);\n        if (mkdir(name, 0700) && errno != EEXIST) {'),
    ),
    "test_another_users_files_in_dev_shm_are_a_miss": (
        Mutation(_TMPFS, "_SAFE = os.O_NOFOLLOW | os.O_CLOEXEC", "_SAFE = os.O_CLOEXEC"),
    ),
    "test_who_only_calls_himself_kubelet_is_neither_believed_nor_run": (
        Mutation(_PROCESSES, "if os.path.basename(path).removesuffix(_DELETED) != _NAME:", "if False:"),
        Mutation(_PROCESSES, "line.split()[1:]", "line.split()[2:]"),
        Mutation(_PROCESSES, 'for kind in ("pid", "mnt")', 'for kind in ("pid",)'),
        Mutation(_PROCESSES, 'for kind in ("pid", "mnt")', 'for kind in ("mnt",)'),
    ),
    "test_a_kubelet_that_another_user_can_replace_is_a_finding_and_not_run": (
        Mutation(_PROCESSES, "    if replaceable := _who_can_replace(program, path):", "    if replaceable := None:"),
        Mutation(_ROOT_ONLY, "if status.st_uid not in (0, user):", "if False:"),
        Mutation(_ROOT_ONLY, "mode & (stat.S_IWGRP | stat.S_IWOTH)", "mode & stat.S_IWOTH"),
    ),
    "test_a_provider_that_another_user_can_replace_is_a_finding_and_not_run": (
        Mutation(_CHECK_RUNNER, "and not found.replaceable", ""),
        Mutation(_CHECK_KUBELET, "        if not wrong and program.replaceable:", "        if False:"),
        Mutation(_ROOT_ONLY, "if status.st_uid not in (0, user):", "if False:"),
        Mutation(_ROOT_ONLY, "sticky = stat.S_ISDIR", "sticky = True or stat.S_ISDIR"),
    ),
    "test_a_config_that_another_user_can_replace_is_a_finding_and_not_believed": (
        Mutation("provider/commands/node/files.py", "        replaceable = _others(path, *paths.values())", "        replaceable = None"),
        Mutation("provider/commands/node/files.py", "_others(path, *paths.values())", "_others(path)"),
        Mutation(_CHECK_KUBELET, "    if files.replaceable:\n", "    if False:\n"),
    ),
    "test_a_settings_file_that_another_user_can_replace_is_a_finding": (
        Mutation(_CHECK_RUNNER, "if call.settings_file and (others := who_can_replace(call.settings_file)):", "if others := None:"),
    ),
    "test_a_provider_that_is_swapped_all_the_time_is_never_run": (
        Mutation(_ROOT_ONLY, "left = _names(os.path.join(os.getcwd(), path))", "left = _names(os.path.realpath(path))"),
        Mutation(_ROOT_ONLY, "            links += 1\n", "            return None\n"),
    ),
    "test_uninstall_executes_nothing": (
        Mutation(_UNINSTALL, "ask_version=False", "ask_version=True"),
    ),
    "test_uninstall_respects_each_kubelet_whoever_else_calls_himself_so": (
        Mutation(_UNINSTALL, "find_kubelets(ask_version=False).kubelets:", "find_kubelets(ask_version=False).kubelets[:1]:"),
    ),
    "test_nobody_else_keeps_root_from_uninstalling": (
        Mutation(_PROCESSES, """return f"is user {min(users)}'s" if users else None""", "return None"),
        Mutation(_PROCESSES, "if os.path.basename(path).removesuffix(_DELETED) != _NAME:", "if False:"),
    ),
    "test_uninstall_believes_no_record_that_another_user_can_replace": (
        Mutation(_UNINSTALL, "        refuse_replaceable(prefix, record_path(prefix))", "        pass"),
        Mutation(_UNINSTALL, "        refuse_replaceable(*map(Path, [*record.bin_dirs, *(path for path, _ in record.configs)]))\n", ""),
    ),
    "test_uninstall_removes_the_shared_tokens_and_nothing_else_beside_them": (
        Mutation(_TMPFS, '            if name.startswith("v") and name[1:].partition("-")[0].isdecimal():', "            if True:"),
        Mutation(_UNINSTALL, '"removed", store.remove)', '"removed", store.names)'),
    ),
    "test_where_another_user_could_put_other_files_nothing_is_installed": (
        Mutation(_INSTALL, "refuse_replaceable(*directories, record_path(paths.prefix))", "pass"),
    ),
    "test_a_config_that_another_user_can_replace_is_not_changed": (
        Mutation("provider/commands/install/merged_config.py", "    refuse_replaceable(Path(given))\n", ""),
    ),
    "test_another_user_who_swaps_the_folder_below_his_own_has_nothing_run": (
        Mutation(_LAUNCHER, "return !*name;", "return true;"),
    ),
    "test_the_launcher_unpacks_only_where_nobody_else_can_swap_its_folder": (
        Mutation(_LAUNCHER, "    if ((status->st_uid && status->st_uid != geteuid())\n        ||", "    if ("),
        Mutation(_LAUNCHER, "mode & 022 && !(mode & S_ISVTX)", "0"),
    ),
    # --- user with access to the credential cache or the kubelet's environment ---
    "test_a_cache_entry_of_any_shape_is_a_miss": (
        Mutation(_ENTRIES, "not is_token(text) or type(expires_in) is not int or expires_in > MAX_EXPIRES_IN", "not is_token(text)"),
    ),
    "test_the_environment_turns_nothing_against_the_node": (
        Mutation(_IMDS, 'IPV4 = Origin("http", "169.254.169.254", HTTP_PORT)', 'import os\nfrom urllib.parse import urlsplit\nIPV4 = Origin("http", urlsplit(os.environ.get("OCI_METADATA_BASE_URL", "http://169.254.169.254")).hostname or "", 80)'),
        Mutation(_IMDS, "        content = json.loads(body)\n", '        import os\n        content = json.loads(os.environ.get("OCI_REGION_METADATA") or body)\n'),
        Mutation(_IMDS, "            return RegionInfo(region, domain, ", '            import os\n            return RegionInfo(os.environ.get("OCI_REGION", region), domain, '),
        Mutation(_EXCHANGE, "    method = invocation.settings.ocir_auth_method\n", '    import os\n    method = "RESOURCE_PRINCIPAL" if "OCI_RESOURCE_PRINCIPAL_VERSION" in os.environ else invocation.settings.ocir_auth_method\n'),
        Mutation(_TLS_FILE, 'environ.get("https_proxy") or environ.get("HTTPS_PROXY")', 'environ.get("https_proxy") or environ.get("HTTPS_PROXY") or environ.get("HTTP_PROXY")'),
        Mutation(_TLS_FILE, 'environ.get("https_proxy") or environ.get("HTTPS_PROXY")', 'environ.get("https_proxy") or environ.get("HTTPS_PROXY") or environ.get("all_proxy")'),
        Mutation(_TLS_FILE, _CHOICES, '_CHOICES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")'),
        Mutation(_TLS_FILE, _CHOICES, '_CHOICES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "SSL_CERT_DIR")'),
        Mutation(_TLS_FILE, "context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)", "context = ssl.create_default_context()"),
        Mutation("provider/__main__.py", "        os.environ.pop(name, None)", "        pass"),
        Mutation(_TOKEN_ENDPOINT, _SIGN, _NETRC.replace("FILE", "")),
        Mutation(_TMPFS, 'parents = [SYSTEM_PARENT, environ.get("XDG_RUNTIME_DIR") or ""]', 'parents = [environ.get("XDG_RUNTIME_DIR") or "", SYSTEM_PARENT]'),
        Mutation(_TOKEN_ENDPOINT, _SIGN, _NETRC.replace("FILE", 'os.environ["NETRC"] if "NETRC" in os.environ else "/nowhere"')),
    ),
    "test_a_users_cache_is_in_the_users_runtime_directory": (
        Mutation(_TMPFS, 'parents = [SYSTEM_PARENT, environ.get("XDG_RUNTIME_DIR") or ""]', "parents = [SYSTEM_PARENT]"),
    ),
    "test_no_variable_reaches_python_inside_a_frozen_program": (
        Mutation(_LAUNCHER, '    unsetenv("LD_PRELOAD");\n', ""),
    ),
    "test_libraries_of_the_node_do_not_reach_it": (
        Mutation(_LAUNCHER, '    setenv("LD_LIBRARY_PATH", libraries, 1);\n', ""),
        Mutation(_LAUNCHER, '    unsetenv("LD_AUDIT");\n', ""),
    ),
    # --- README: proxies and CA certificates ---
    "test_no_proxy_is_honored": (
        Mutation(_TLS_FILE, 'environ.get("no_proxy") or environ.get("NO_PROXY") or ""', 'environ.get("no_proxy") or ""'),
        Mutation(_TLS_FILE, 'environ.get("no_proxy") or environ.get("NO_PROXY") or ""', 'environ.get("NO_PROXY") or ""'),
    ),
    "test_only_the_configured_bundle_is_trusted": (
        Mutation(_TLS_FILE, _CHOICES, '_CHOICES = ("SSL_CERT_FILE",)'),
        Mutation(_TLS_FILE, "    if not any(environ.get(name) for name in _CHOICES):\n", "    if True:\n"),
    ),
    # --- README: how it works, how long credentials are cached ---
    "test_a_warm_call_makes_no_request": (
        Mutation(_PLUGIN, "        subject = subject_of(settings,", "        from provider.ocir import exchange\n        exchange.instance_region(invocation.deadline)\n        subject = subject_of(settings,"),
    ),
    "test_the_cache_can_be_disabled": (
        Mutation(_TOKEN_CACHE, "    if not invocation.settings.token_cache:\n        return _fetch_uncached(image, invocation)\n", ""),
    ),
    "test_a_token_near_its_expiry_is_not_reused": (
        Mutation(_ENTRIES, "_LEAST_SECONDS = 360", "_LEAST_SECONDS = 0"),
    ),
    "test_a_failure_is_cached_for_seconds_and_a_repair_takes_effect": (
        Mutation(_ENTRIES, "_FAILURE_SECONDS = 5", "_FAILURE_SECONDS = 600"),
    ),
    "test_an_error_is_one_printable_line": (
        Mutation("provider/errors.py", 'c if c.isprintable() else "?" for c', "c for c"),
    ),
    "test_nothing_is_written_to_the_working_directory": (
        Mutation("provider/log.py", '        self.lines.append(f"{level}: {line}")', '        self.lines.append(f"{level}: {line}")\n        with open("provider.log", "a") as file:\n            file.write(line)'),
    ),
    "test_an_oci_config_never_replaces_the_instance_principal": (
        Mutation(_EXCHANGE, "    method = invocation.settings.ocir_auth_method\n", '    import os\n    method = "USER_PRINCIPAL" if os.path.exists(os.path.expanduser("~/.oci/config")) else invocation.settings.ocir_auth_method\n'),
    ),
    "test_a_user_with_an_api_key": (
        Mutation(_OCI_FILES, "    file, name = file or _CONFIG_FILE,", "    file, name = _CONFIG_FILE,"),
    ),
    # --- README: per-pod identity ---
    "test_without_a_service_account_token_there_are_no_credentials_and_no_requests": (
        Mutation("provider/settings.py", "if self.ocir_auth_method != WORKLOAD_OR_INSTANCE:", "if self.ocir_auth_method not in (WORKLOAD_OR_INSTANCE, WORKLOAD_IDENTITY):"),
    ),
    "test_the_nodes_identity_never_replaces_a_refused_account": (
        Mutation(_PLUGIN, "        credentials = get_or_fetch(image, invocation._replace(subject=subject))\n", '        try:\n            credentials = get_or_fetch(image, invocation._replace(subject=subject))\n        except ProviderError:\n            settings = settings._replace(ocir_auth_method="INSTANCE_PRINCIPAL")\n            credentials = get_or_fetch(image, invocation._replace(settings=settings))\n'),
    ),
    "test_the_node_and_its_pods_never_share_a_token": (
        Mutation(_ENTRIES, '" ".join(parts if subject is None else [*parts, subject.identity])', '" ".join(["INSTANCE_PRINCIPAL", *parts[1:]])'),
    ),
    "test_no_proxy_is_used_for_the_clusters_endpoint": (
        Mutation(_WORKLOAD, "client = Client(origin(cluster), deadline, WorkloadUnreachable, [lambda: context(cluster)])", "client = network.client(origin(cluster), WorkloadUnreachable)\n    client._trust = [lambda: context(cluster)]"),
    ),
    "test_a_foreign_ca_is_refused_before_the_token_is_sent": (
        Mutation(_WORKLOAD, "[lambda: context(cluster)]", "[lambda: context(cluster), *network._trust]"),
        Mutation(_WORKLOAD, _TLS, "context.check_hostname = False\n    context.verify_mode = ssl.CERT_NONE"),
    ),
    "test_the_service_account_token_is_never_written_and_sent_only_to_the_cluster": (
        Mutation(_WORKLOAD, '    name = f"service account {account.namespace}/{account.name}"', '    name = f"service account {account.namespace}/{account.name} {account.token}"'),
        Mutation(_EXCHANGE, "    principal, registry = proof\n", '    principal, registry = proof\n    token = getattr(invocation.subject, "token", "")\n    registry.request("GET", "/v2/", lambda: {"authorization": f"Bearer {token}"})\n'),
    ),
    "test_credentials_never_outlive_the_service_account_token": (
        Mutation(_EXCHANGE, "        token = token._replace(expires_in=min(token.expires_in, principal.expires_in))\n", "        pass\n"),
    ),
    # --- README: container tools ---
    "test_store_and_erase_are_refused_with_a_reason_and_keep_nothing": (
        Mutation("provider/plugin/docker_helper.py", '    if action != "get":\n', '    if action != "get":\n        with open("/run/kept", "w") as file:\n            file.write(server)\n'),
        Mutation("provider/plugin/docker_helper.py", "        return 1, STORES_NOTHING\n", "        return 0, STORES_NOTHING\n"),
    ),
    # --- SECURITY.md: from a tag to a node ---
    "test_with_a_pinned_checksum_an_installed_program_is_neither_trusted_nor_run": (
        Mutation(_CLOUD_INIT, '[ -z "$sha256" ] && [ -s', "[ -s"),
    ),
    "test_a_replaced_release_fails_the_pinned_checksum": (
        Mutation(_CLOUD_INIT, "if ! sha256sum --check --status --ignore-missing SHA256SUMS; then", "if false; then"),
    ),
    "test_it_is_root_on_the_node": (
        Mutation(_ENTER_HOST, " || chroot(HOST)", ""),
        Mutation(_DAEMONSET, "runAsUser: 0", "runAsUser: 65534"),
    ),
    "test_it_runs_and_unpacks_nothing_where_other_users_of_the_node_can_write": (
        Mutation(_ENTER_HOST, "fexecve(binary, argv, environment);", "execve(BINARY, argv, environment);"),
    ),
    "test_the_folder_for_temporary_files_is_sticky": (
        Mutation(_ENTER_HOST, "    protect_temporary_files();\n", ""),
    ),
    "test_a_download_is_verified_file_by_file": (
        Mutation("packaging/release/download.sh", '--source-ref "refs/tags/$TAG" ', ""),
    ),
    "test_a_wrong_sum_stops_the_download": (
        Mutation("packaging/release/download.sh", "sha256sum --check --strict SHA256SUMS", "true"),
    ),
    "test_security_md_tells_what_the_download_job_does": (
        Mutation("SECURITY.md", 'linux-amd64 --repo "$REPOSITORY" \\\n    --signer-workflow "$REPOSITORY/.github/workflows/release.yml"', 'linux-amd64 --repo "$REPOSITORY" \\\n    --signer-workflow "$REPOSITORY/.github/workflows/ci.yml"'),
    ),
    "test_the_jobs_of_a_release_are_told_with_what_they_may_do": (
        Mutation("SECURITY.md", "| read, sign as this workflow |\n| `verify`", "| read |\n| `verify`"),
    ),
    "test_a_binary_is_attested_where_it_is_built_before_anything_else_gets_it": (
        Mutation(".github/workflows/release.yml", "      - run: make release-binary\n", "      - run: make release-binary\n      - run: make release-check\n"),
    ),
    "test_a_file_that_is_not_the_one_that_was_built_stops_the_release": (
        Mutation("packaging/release/assets.sh", '(cd "$release" && sha256sum --check --strict <<<"$SUMS")', "true"),
    ),
    "test_the_draft_is_verified_again_right_before_it_is_published": (
        Mutation(".github/workflows/release.yml", '      - run: make release-download\n        env:\n          GH_TOKEN: ${{ github.token }}\n      - run: gh', "      - run: gh"),
    ),
    "test_it_stops_where_a_listed_version_is_not_served": (
        Mutation("packaging/python/portable_python.sh", '        [ -n "$allow_older" ] || break\n', ""),
    ),
    "test_a_folder_that_another_user_could_write_to_is_refused": (
        Mutation("packaging/python/portable_python.sh", 'if [ ! -O "$base" ] || ', "if "),
        Mutation("packaging/python/portable_python.sh", ' || [ -n "$(find "$base" -maxdepth 0 -perm /022)" ]', ""),
    ),
    "test_a_newer_source_fails_and_says_to_release_again": (
        Mutation("packaging/release/audit.sh", "        status=1\n", ""),
    ),
    "test_pip_installs_only_what_is_locked_by_hash": (
        Mutation("packaging/python/portable_binary.sh", "--require-hashes", "--quiet"),
    ),
    "test_debians_sources_are_verified_by_debians_keys": (
        Mutation("packaging/python/debian.sh", "deb-src [signed-by=$debian_keyring] $mirror-security", "deb-src [trusted=yes] $mirror-security"),
    ),
    "test_dependabot_waits_a_week": (
        Mutation(".github/dependabot.yml", "      default-days: 7\n    groups:\n      python", "      default-days: 1\n    groups:\n      python"),
    ),
    "test_no_workflow_has_a_secret_but_githubs_own_token": (
        Mutation(".github/workflows/weekly.yml", "make audit-release\n        env:\n          GH_TOKEN: ${{ github.token }}", "make audit-release\n        env:\n          GH_TOKEN: ${{ secrets.TOKEN }}"),
    ),
    "test_a_workflow_keeps_the_rule": (
        Mutation(".github/workflows/ci.yml", "  lint:\n    name: lint\n    runs-on: ubuntu-24.04\n    timeout-minutes: 15\n    permissions:\n      contents: read # checkout", "  lint:\n    name: lint\n    runs-on: ubuntu-24.04\n    timeout-minutes: 15\n    permissions:\n      contents: write # checkout"),
        Mutation(".github/workflows/verify.yml", "actions/checkout@3d3c42e5aac5ba805825da76410c181273ba90b1 # v7.0.1", "actions/checkout@v7"),
    ),
}  # fmt: skip
