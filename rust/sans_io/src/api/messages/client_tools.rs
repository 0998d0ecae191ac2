//! The tools that Anthropic defines and the client runs itself. A request names only their type;
//! what models are told of them is in Anthropic's reference, "Tool use". Here a model gets a
//! function with the same members.

use serde_json::value::RawValue;

use super::json::raw;

/// A tool of the client's own.
pub(super) struct ClientTool {
    /// The kind of tool, of which a request has one at most.
    pub(super) family: &'static str,
    /// What models are told of it.
    pub(super) description: &'static str,
    /// The JSON schema of its input.
    pub(super) schema: &'static RawValue,
}

/// The tool of this type, whose name ends with the date of its version; None where the client does
/// not run it, or none is known.
pub(super) fn client_tool(kind: &str) -> Option<ClientTool> {
    let (family, version) = kind.rsplit_once('_')?;
    if version.len() != 8 || !version.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let known = match family {
        "bash" => BASH,
        // From then on the text of `insert` has a name of its own.
        "text_editor" if version < "20250429" => OLD_TEXT_EDITOR,
        "text_editor" => TEXT_EDITOR,
        "memory" => MEMORY,
        "computer" => COMPUTER,
        _ => return None,
    };
    let Known { family, description, schema } = known;
    Some(ClientTool { family, description, schema: raw(schema)? })
}

struct Known {
    family: &'static str,
    description: &'static str,
    schema: &'static str,
}

const BASH: Known = Known {
    family: "bash",
    description: "Runs a command in a bash shell, which stays the same from call to call.",
    schema: concat!(
        r#"{"type":"object","properties":{"#,
        r#""command":{"type":"string","description":"The command. Required unless the "#,
        r#"shell is restarted."},"#,
        r#""restart":{"type":"boolean","description":"True: the shell is started anew."}}}"#,
    ),
};

const TEXT_EDITOR: Known = Known {
    family: "text_editor",
    description: "Shows, creates and edits text files.",
    schema: concat!(
        r#"{"type":"object","properties":{"#,
        r#""command":{"type":"string","enum":["view","create","str_replace","insert"]},"#,
        r#""path":{"type":"string","description":"The file; for view also a folder."},"#,
        r#""view_range":{"type":"array","items":{"type":"integer"},"#,
        r#""description":"view: the first and the last line, from 1 on; -1: to the end."},"#,
        r#""file_text":{"type":"string","description":"create: the text of the file."},"#,
        r#""old_str":{"type":"string","description":"str_replace: the text to replace, "#,
        r#"exactly as it is in one place of the file."},"#,
        r#""new_str":{"type":"string","description":"str_replace: the text in its place."},"#,
        r#""insert_line":{"type":"integer","description":"insert: the line behind which "#,
        r#"the text is put; 0: at the beginning."},"#,
        r#""insert_text":{"type":"string","description":"insert: the text."}},"#,
        r#""required":["command","path"]}"#,
    ),
};

const OLD_TEXT_EDITOR: Known = Known {
    family: "text_editor",
    description: "Shows, creates and edits text files.",
    schema: concat!(
        r#"{"type":"object","properties":{"#,
        r#""command":{"type":"string","enum":["view","create","str_replace","insert","undo_"#,
        r#"edit"]},"#,
        r#""path":{"type":"string","description":"The file; for view also a folder."},"#,
        r#""view_range":{"type":"array","items":{"type":"integer"},"#,
        r#""description":"view: the first and the last line, from 1 on; -1: to the end."},"#,
        r#""file_text":{"type":"string","description":"create: the text of the file."},"#,
        r#""old_str":{"type":"string","description":"str_replace: the text to replace, "#,
        r#"exactly as it is in one place of the file."},"#,
        r#""new_str":{"type":"string","description":"str_replace: the text in its place; "#,
        r#"insert: the text."},"#,
        r#""insert_line":{"type":"integer","description":"insert: the line behind which "#,
        r#"the text is put; 0: at the beginning."}},"#,
        r#""required":["command","path"]}"#,
    ),
};

const MEMORY: Known = Known {
    family: "memory",
    description: "Keeps notes from conversation to conversation, in files below /memories. Look \
                  there before you begin.",
    schema: concat!(
        r#"{"type":"object","properties":{"#,
        r#""command":{"type":"string","enum":["view","create","str_replace","insert","delet"#,
        r#"e","rename"]},"#,
        r#""path":{"type":"string","description":"The file or folder, below /memories."},"#,
        r#""view_range":{"type":"array","items":{"type":"integer"},"#,
        r#""description":"view: the first and the last line."},"#,
        r#""file_text":{"type":"string","description":"create: the text of the file."},"#,
        r#""old_str":{"type":"string","description":"str_replace: the text to replace."},"#,
        r#""new_str":{"type":"string","description":"str_replace: the text in its place."},"#,
        r#""insert_line":{"type":"integer","description":"insert: the line behind which "#,
        r#"the text is put."},"#,
        r#""insert_text":{"type":"string","description":"insert: the text."},"#,
        r#""old_path":{"type":"string","description":"rename: the present path."},"#,
        r#""new_path":{"type":"string","description":"rename: the new one."}},"#,
        r#""required":["command"]}"#,
    ),
};

const COMPUTER: Known = Known {
    family: "computer",
    description: "Uses a computer's screen, mouse and keyboard. Take a screenshot to see what is \
                  there.",
    schema: concat!(
        r#"{"type":"object","properties":{"#,
        r#""action":{"type":"string","enum":["screenshot","key","type","mouse_move","left_c"#,
        r#"lick","left_click_drag","right_click","middle_click","double_click","triple_clic"#,
        r#"k","left_mouse_down","left_mouse_up","cursor_position","scroll","hold_key","wait"#,
        r#"","zoom"]},"#,
        r#""coordinate":{"type":"array","items":{"type":"integer"},"#,
        r#""description":"x and y in pixels, from the upper left corner."},"#,
        r#""start_coordinate":{"type":"array","items":{"type":"integer"},"#,
        r#""description":"left_click_drag: where it begins."},"#,
        r#""text":{"type":"string","description":"type: the text; key, hold_key: the keys, "#,
        r#"such as ctrl+s; clicks and scroll: a key that is held."},"#,
        r#""scroll_direction":{"type":"string","enum":["up","down","left","right"]},"#,
        r#""scroll_amount":{"type":"integer","description":"How many clicks of the "#,
        r#"wheel."},"#,
        r#""duration":{"type":"number","description":"hold_key, wait: the seconds."},"#,
        r#""region":{"type":"array","items":{"type":"integer"},"#,
        r#""description":"zoom: left, top, right and bottom."}},"#,
        r#""required":["action"]}"#,
    ),
};
