"""What `rpiae` says of pictures that people bring, and of fetching, in Simplified Chinese: its sentences, and ours for
them."""

import re

_NAME = r"(?P<name>'.*'|The picture)"
_FORMS = {
    _NAME + r" is damaged or cut off and cannot be read \((?P<why>.*)\)\. Save it again and try once more\.": (
        "{name} 已损坏或不完整，无法读取（{why}）。请重新保存后再试。"
    ),
    _NAME + r" is damaged and cannot be read \((?P<why>.*)\)\.": "{name} 已损坏，无法读取（{why}）。",
    _NAME + r" is not a picture that can be read\. Use (?P<formats>.*) or (?P<last>\w+)\.": (
        "{name} 不是可以读取的图片。请使用 {formats} 或 {last}。"
    ),
    _NAME + r" is empty \(0 bytes\)\.": "{name} 是空文件（0 字节）。",
    _NAME + r" has (?P<size>\d+x\d+) pixels, but each side needs at least (?P<least>\d+)\.": (
        "{name} 的尺寸为 {size} 像素，每边至少需要 {least} 像素。"
    ),
    _NAME
    + r" has (?P<size>\d+x\d+) pixels \((?P<all>\d+) megapixels\), which is more than the (?P<most>\d+) megapixels "
    r"accepted here\. Make it smaller first\.": (
        "{name} 的尺寸为 {size} 像素（{all} 百万像素），超过了允许的 {most} 百万像素。请先缩小图片。"
    ),
    _NAME + r" is more than the (?P<most>\d+) megapixels accepted here\. Make it smaller first\.": (
        "{name} 超过了允许的 {most} 百万像素。请先缩小图片。"
    ),
    r"There is no file (?P<name>'.*')\. Check the path\.": "没有文件 {name}，请检查路径。",
    r"The mask is damaged or cut off and cannot be read \((?P<why>.*)\)\.": "蒙版已损坏或不完整，无法读取（{why}）。",
    r"Nothing is painted white on the mask, so nothing may change\. .*": (
        "蒙版上没有白色部分，因此没有可修改的区域。请涂出允许修改的部分，或不使用蒙版。"
    ),
    r"The mask has (?P<mask>\d+x\d+) pixels, the picture (?P<size>\d+x\d+)\. .*": (
        "蒙版为 {mask} 像素，图片为 {size} 像素。请在图片上按原尺寸绘制蒙版。"
    ),
    r"could not fetch (?P<name>'.*') from the hub: (?P<why>.*)": "无法从模型库获取 {name}（{why}）。",
    r"This is not a whole recipe \((?P<why>.*)\)\.": "这份配方不完整（{why}）。",
}
SENTENCES = tuple((re.compile(pattern, re.DOTALL), form) for pattern, form in _FORMS.items())
