// What the environment says: paths, tokens, addresses.
import Diagnostics
import Formats
import Glibc
import Hub
import ModelFiles
import Testing

private func reader(_ variables: [String: String]) -> VariableReader { { variables[$0] } }

@Suite struct HubPathTests {
    // What Python's expandvars(expanduser(...)) makes of them with the same two variables.
    @Test(arguments: [
        ("~", "/h"), ("~/a", "/h/a"), ("a~/b", "a~/b"), ("~$X", "~/x"), ("$X/a", "/x/a"), ("${X}a", "/xa"),
        ("$X$X", "/x/x"), ("x$Xé", "x/xé"), ("$NONE/a", "$NONE/a"), ("${NONE}", "${NONE}"), ("$X_1", "$X_1"),
        ("a$/b", "a$/b"), ("$", "$"), ("${X", "${X"), ("${}", "${}"),
    ]) func variablesInPathsAreReplaced(_ text: String, _ path: String) {
        #expect(hubPath("HF_HOME", reader(["HF_HOME": text, "HOME": "/h", "X": "/x"])) == path)
    }

    @Test(arguments: [
        (["HOME": "/h"], "/h/.cache/huggingface/hub"),
        (["HOME": "/h", "XDG_CACHE_HOME": "~/c"], "/h/c/huggingface/hub"),
        (["HOME": "/h", "XDG_CACHE_HOME": "/c", "HF_HOME": "$HOME/hf"], "/h/hf/hub"),
        (["HOME": "/h", "HF_HOME": "/hf", "HUGGINGFACE_HUB_CACHE": "${HOME}/old"], "/h/old"),
        (["HOME": "/h", "HUGGINGFACE_HUB_CACHE": "/old", "HF_HUB_CACHE": "~/new"], "/h/new"),
    ]) func theCacheIsWherePythonHasIt(_ variables: [String: String], _ folder: String) {
        #expect(HubCache(reader(variables))?.folder == folder)
    }

    @Test func theNewerNameOfOfflineDecides() {
        #expect(hubIsOffline(reader(["TRANSFORMERS_OFFLINE": "1"])) && hubIsOffline(reader(["HF_HUB_OFFLINE": "yes"])))
        #expect(
            !hubIsOffline(reader(["HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "1"])) && !hubIsOffline(reader([:])))
    }
}

@Suite struct HubTokenTests {
    @Test(
        arguments: [
            ("hf_a\n", "hf_a"), (" hf_a \r\n", "hf_a"), ("\thf_\na", "hf_a"), (" \n", nil),
        ] as [(String, String?)]) func lineEndsAndBlanksAreNoPartOfIt(_ text: String, _ token: String?) throws
    {
        #expect(try HubSettings.fromEnvironment(reader(["HF_TOKEN": text])).token == token)
    }

    @Test(arguments: ["hf_secret\u{1}a", "hf_secret é", "hf_sec ret", "hf_secret\u{7F}", "hf_secret\u{0}"])
    func whatIsNoTokenIsRefusedUnseen(_ text: String) throws {
        let folder = try Folder(), file = joinPath(folder.path, "token")
        try writeFileAtomically(text, to: file)
        for (source, variables) in [("HF_TOKEN", ["HF_TOKEN": text]), (file, ["HF_TOKEN_PATH": file])] {
            let error = #expect(throws: UserError.self) { try HubSettings.fromEnvironment(reader(variables)) }
            #expect(error?.exitStatus == .usage && error?.message.hasPrefix(source + ": ") == true)
            #expect(error?.message.contains("sec") == false, "the token is shown")
        }
    }

    @Test func theNewerNameComesFirstThenTheFile() throws {
        let folder = try Folder()
        try writeFileAtomically("hf_file\n", to: joinPath(folder.path, "token"))
        var variables = [
            "HOME": folder.path, "HF_TOKEN_PATH": "~/token", "HUGGING_FACE_HUB_TOKEN": "hf_old", "HF_TOKEN": "hf_new",
        ]
        for (name, token) in [
            ("HF_TOKEN", "hf_new"), ("HUGGING_FACE_HUB_TOKEN", "hf_old"), ("HF_TOKEN_PATH", "hf_file"),
        ] {
            #expect(try HubSettings.fromEnvironment(reader(variables)).token == token)
            variables[name] = nil
        }
        #expect(try HubSettings.fromEnvironment(reader(variables)).token == nil)
        let refused = ["HF_TOKEN": "hf_new", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"]
        #expect(try HubSettings.fromEnvironment(reader(refused)).token == nil)
    }
}

@Suite struct HubAddressTests {
    @Test(arguments: [
        "huggingface.co", "ftp://h", "http://", "https:///a", "http://user:secret@h", "http://h:99999",
        "http://h/?a=secret",
        "http://h\u{1}", " ",
    ]) func anEndpointHasASchemeAndAHost(_ text: String) {
        let error = #expect(throws: UserError.self) {
            try HubSettings.fromEnvironment(reader(["HOME": "/none", "HF_ENDPOINT": text]))
        }
        #expect(error?.exitStatus == .usage && error?.message.hasPrefix("HF_ENDPOINT: ") == true)
        #expect(error?.message.contains("secret") == false)
    }

    @Test func anEndpointMayHaveAPathAndSlashes() throws {
        let settings = try HubSettings.fromEnvironment(
            reader(["HOME": "/none", "HF_ENDPOINT": " http://127.0.0.1:8080/hub//\n"]))
        #expect(settings.endpoint == "http://127.0.0.1:8080/hub")
    }

    @Test(arguments: [
        ("p:3128", HubProxy(host: "p", port: 3128)), ("http://p", HubProxy(host: "p", port: 80)),
        ("http://[::1]:8/", HubProxy(host: "::1", port: 8)),
        ("http://u:a%40b@p:1", HubProxy(host: "p", port: 1, user: "u", password: "a@b")),
        ("u:a@p:1", HubProxy(host: "p", port: 1, user: "u", password: "a")),
    ]) func proxies(_ text: String, _ proxy: HubProxy) throws {
        for name in ["https_proxy", "HTTPS_PROXY"] {
            #expect(try HubSettings.fromEnvironment(reader(["HOME": "/none", name: text])).proxy == proxy)
        }
        let plain = ["HOME": "/none", "HF_ENDPOINT": "http://h", "HTTP_PROXY": text, "HTTPS_PROXY": "http://other"]
        #expect(try HubSettings.fromEnvironment(reader(plain)).proxy == proxy)
    }

    @Test(arguments: [
        "https://u:secret@p:1", "socks5://p:1", "http://", "http://p:99999", "http://u:sec ret@p", "http://u:secreté@p",
    ])
    func otherProxiesAreRefused(_ text: String) {
        let error = #expect(throws: UserError.self) {
            try HubSettings.fromEnvironment(reader(["HOME": "/none", "HTTPS_PROXY": text]))
        }
        #expect(error?.exitStatus == .usage && error?.message.hasPrefix("HTTPS_PROXY: ") == true)
        #expect(error?.message.contains("sec") == false)
    }

    @Test(arguments: [
        ("co", true), ("other, .huggingface.co", true), ("*", true), ("face.co", false), ("other", false),
    ])
    func noProxyNamesHostsAndDomains(_ names: String, _ isDirect: Bool) throws {
        let variables = ["HOME": "/none", "HTTPS_PROXY": "p:1", "NO_PROXY": names]
        #expect((try HubSettings.fromEnvironment(reader(variables)).proxy == nil) == isDirect)
    }
}
